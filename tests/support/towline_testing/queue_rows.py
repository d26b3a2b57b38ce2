"""Runs, sessions and leases in the queue's own tables, made by its statements: no service, no network."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import count
from typing import Any, TypeVar
from uuid import UUID, uuid4

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from towline.errors import TowlineError
from towline.names import QueueName
from towline.service.postgres import connecting, migrate, transaction
from towline.v1 import leases_pb2, queues_pb2, runs_pb2
from towline_queue.core.kinds import taken_apart
from towline_queue.core.lease_ids import AttemptKey
from towline_queue.core.leases import Ended, Newcomer, Opening, SessionKey
from towline_queue.core.reports import Result
from towline_queue.core.retries import policy_of
from towline_queue.core.submission import NewRun
from towline_queue.core.transitions import State
from towline_queue.storage import attempts, new_runs, queues, sessions, upkeep
from towline_queue.storage.database import Database, opening
from towline_queue.storage.tables import SCHEMA

T = TypeVar("T")

QUEUE = QueueName("queues/default")
OUTCOMES = {
    State.SUCCEEDED: runs_pb2.ATTEMPT_OUTCOME_SUCCEEDED,
    State.FAILED: runs_pb2.ATTEMPT_OUTCOME_FAILED,
    State.CANCELLED: runs_pb2.ATTEMPT_OUTCOME_CANCELLED,
}


_CLAIM = """
WITH taken AS (DELETE FROM queue.ready WHERE first_run = :run RETURNING *)
INSERT INTO queue.leases (run, epoch, number, session, agent, queue, gpu_ids, lost_after, state)
SELECT taken.first_run, taken.epoch, taken.number, :session, :agent, taken.queue, '{}', queues.lost_after, 3
FROM taken JOIN queue.queues ON queues.name = taken.queue
RETURNING epoch
"""
_RUN = """
SELECT coalesce(runs.state, leases.state, CASE WHEN ready.first_run IS NOT NULL THEN 2 END,
                CASE WHEN scheduled.run IS NOT NULL THEN 1 END) AS state,
       coalesce(runs.detail, leases.detail, ready.detail, scheduled.detail) AS state_detail,
       coalesce(leases.number, ready.number, scheduled.number) AS number,
       runs.failure, runs.outputs, runs.end_time
FROM queue.runs
LEFT JOIN queue.leases ON leases.run = runs.name
LEFT JOIN queue.ready ON ready.first_run = runs.name
LEFT JOIN queue.scheduled ON scheduled.run = runs.name
WHERE runs.name = :name
"""


def together(new: Sequence[NewRun]) -> new_runs.NewRuns:
    """Make a request of runs of one kind, whose names are neighbours."""
    (kind, *_), own_specs = zip(*map(taken_apart, new), strict=True)
    names = [each.spec.run for each in new]
    return new_runs.NewRuns(None, b"", [new_runs.NewKind(kind, None, None)], names, own_specs, [1] * len(new))


@dataclass
class QueueRows:
    """The tables of a queue service with one queue."""

    engine: AsyncEngine
    database: Database
    _numbers: "count[int]" = field(default_factory=count)

    async def do(self, work: Callable[..., Awaitable[T]], *arguments: Any, **named: Any) -> T:
        """Call a storage function of the lease side in a transaction of its own."""
        async with self.database.transaction() as opened:
            return await work(opened, *arguments, **named)

    async def api(self, work: Callable[..., Awaitable[T]], *arguments: Any, **named: Any) -> T:
        """Call a storage function of the API in a transaction of its own."""
        async with transaction(self.engine) as connection:
            return await work(connection, *arguments, **named)

    async def sql(self, statement: str, **values: object) -> list[Any]:
        """Run one statement, and return its rows if it has any."""
        async with transaction(self.engine) as connection:
            rows = await connection.execute(text(statement), values)
            return list(rows) if rows.returns_rows else []

    async def explain(self, statement: str, parameters: int) -> str:
        """Return the plan that a connection of the lease side keeps for a statement."""
        async with self.database.transaction() as opened:
            connection = opened._connection
            await connection.execute(f"PREPARE explained AS {statement}")
            nulls = ", ".join(["NULL"] * parameters)
            plan = await connection.fetch(f"EXPLAIN (COSTS OFF) EXECUTE explained({nulls})")
            await connection.execute("DEALLOCATE explained")
        return "\n".join(row[0] for row in plan)

    async def submit(
        self,
        *,
        retry_policy: runs_pb2.RetryPolicy | None = None,
        max_wait: timedelta | None = None,
        due: datetime | None = None,
    ) -> str:
        """Store one run."""
        new = self._new(retry_policy or runs_pb2.RetryPolicy(), max_wait, due)
        assert await self.do(new_runs.store, [new_runs.single(new)]) == [new_runs.Outcome.STORED]
        return new.spec.run

    async def submit_together(self, count: int, *, max_wait: timedelta | None = None) -> list[str]:
        """Store runs of one kind by one request, and return their names in order."""
        request = together([self._new(runs_pb2.RetryPolicy(), max_wait, None) for _ in range(count)])
        assert await self.do(new_runs.store, [request]) == [new_runs.Outcome.STORED]
        return list(request.names)

    def _new(
        self, retry_policy: runs_pb2.RetryPolicy, max_wait: timedelta | None, due: datetime | None
    ) -> NewRun:
        spec = runs_pb2.LaunchSpec(
            run=f"runs/r{next(self._numbers):04}",
            queue=QUEUE,
            retry_policy=policy_of(retry_policy, runs_pb2.RetryPolicy()),
        )
        spec.stop_grace.FromTimedelta(timedelta(seconds=7))
        if max_wait is not None:
            spec.limits.max_wait.FromTimedelta(max_wait)
        return NewRun(spec, runs_pb2.PRIORITY_MEDIUM, {}, {}, due, "", b"")

    async def session(self, agent: str = "agents/one", instance: str = "a") -> SessionKey:
        """Open a session for an agent whose process has just started, with nothing in its hands."""
        key = SessionKey(uuid4(), agent)
        facts = {
            "hostname": "host",
            "version": "test",
            "queues": [QUEUE],
            "capacity": leases_pb2.Capacity(slots=9).SerializeToString(),
            "gpus": [],
            "labels": {},
        }
        newcomer = Newcomer(agent, instance_id=instance, boot_id="b", fresh=True, facts=facts)
        (opened,) = await self.do(sessions.open_sessions, [Opening(key.id, newcomer, (QUEUE,), [])])
        if isinstance(opened, TowlineError):
            raise opened
        return key

    async def claim(self, run: str, session: SessionKey) -> AttemptKey:
        """Give a waiting run to a session, whatever waits before it; its agent takes it."""
        ((epoch,),) = await self.sql(_CLAIM, run=run, session=session.id, agent=session.agent)
        key = AttemptKey(run, epoch)
        assert await self.do(attempts.accept, [key]) == {key}
        return key

    async def held(self, session: SessionKey, **submission: Any) -> AttemptKey:
        """Store a run and give it to a session."""
        return await self.claim(await self.submit(**submission), session)

    async def finish(
        self,
        key: AttemptKey,
        state: State = State.SUCCEEDED,
        cause: int = runs_pb2.FAILURE_CAUSE_USER_ERROR,
        finish_id: UUID | None = None,
    ) -> list[Ended]:
        """Commit a result."""
        return await self.do(attempts.finish, [result(key, state, cause, finish_id)])

    async def fails(self, run: str, session: SessionKey, cause: int) -> State:
        """Let the next attempt of a run fail, though it may be SCHEDULED; return where the run is then."""
        if (await self.run(run)).state == State.SCHEDULED:
            await self.sql("UPDATE queue.scheduled SET due_time = now()")
            await self.do(upkeep.promote)
        key = await self.claim(run, session)
        (ended,) = await self.finish(key, State.FAILED, cause)
        return ended.state

    async def run(self, name: str) -> Any:
        """Return a run's row, with its state and the detail of that wherever they stand."""
        (row,) = await self.sql(_RUN, name=name)
        return row

    async def attempt(self, key: AttemptKey) -> Any:
        """Return an attempt's row."""
        (row,) = await self.sql(
            "SELECT * FROM queue.attempts WHERE run = :run AND epoch = :epoch", run=key.run, epoch=key.epoch
        )
        return row

    async def everything(self) -> dict[str, list[str]]:
        """Return all rows that attempts and runs are made of, as text, to compare before and after."""
        tables = ("runs", "ready", "scheduled", "leases", "attempts")
        return {
            table: [row[0] for row in await self.sql(f"SELECT t::text FROM queue.{table} t ORDER BY 1")]
            for table in tables
        }


def result(
    key: AttemptKey,
    state: State = State.SUCCEEDED,
    cause: int = runs_pb2.FAILURE_CAUSE_USER_ERROR,
    finish_id: UUID | None = None,
) -> Result:
    """Make a result; `cause` counts where it FAILED."""
    failure = None
    if state is State.FAILED:
        failure = runs_pb2.Failure(cause=cause, message="It failed.").SerializeToString()
    if state is State.CANCELLED:
        failure = runs_pb2.Failure(cause=runs_pb2.FAILURE_CAUSE_CANCELLED).SerializeToString()
    return Result(key, finish_id or uuid4(), state, OUTCOMES[state], 1, failure, "artifacts/a/versions/v0")


@asynccontextmanager
async def queue_rows(
    database_url: str, policy: queues_pb2.LeasePolicy | None = None
) -> AsyncIterator[QueueRows]:
    """Make the tables, with "queues/default" in them."""
    async with connecting(database_url) as engine, opening(engine, size=8) as database:
        await migrate(engine, schema=SCHEMA, scripts="towline_queue:migrations")
        rows = QueueRows(engine, database)
        spec = queues_pb2.QueueSpec(lease_policy=policy)
        await rows.api(queues.create, QUEUE, spec.SerializeToString())
        yield rows
