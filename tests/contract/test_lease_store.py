"""The lease store in memory and the one on PostgreSQL do the same, whatever is asked of them."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from towline.errors import TowlineError
from towline.names import RunName
from towline.service.postgres import RequestKey, connecting, transaction
from towline.v1 import leases_pb2, queues_pb2, runs_pb2
from towline_queue.core.dispatch import HandedOut, Search
from towline_queue.core.kinds import taken_apart
from towline_queue.core.lease_ids import AttemptKey, lease_id
from towline_queue.core.leases import Claimed, Newcomer, Opened, Opening, SessionKey
from towline_queue.core.matching import (
    Lane,
    Offer,
    Place,
    WaitingRun,
    lanes,
    match,
    places,
    spread,
)
from towline_queue.core.reports import Progress, Reply, Report, Result, Returned, SaidBy
from towline_queue.core.retries import policy_of
from towline_queue.core.sessions import Inventory, InventoryEntry
from towline_queue.core.stops import stop_reason
from towline_queue.core.submission import NewRun
from towline_queue.core.transitions import State
from towline_queue.storage import agents, new_runs, queues, runs
from towline_queue.storage.claims import Claims
from towline_queue.storage.database import Database, opening
from towline_queue.storage.lease_store import PostgresLeaseStore
from towline_queue.storage.tables import launch_specs
from towline_queue.store import LeaseStore
from towline_testing.history import violations
from towline_testing.memory_store import MemoryLeaseStore
from towline_testing.queue_rows import OUTCOMES, QUEUE, together

_TABLES = (
    "runs",
    "launch_specs",
    "ready",
    "scheduled",
    "leases",
    "attempts",
    "agents",
    "sessions",
    "leaders",
    "queues",
)
# A run that has not ended is where its row is; its newest epoch is that of its lease, or the one before
# the next one.
_RUNS = """
SELECT name, coalesce(runs.state, leases.state, CASE WHEN ready.first_run IS NOT NULL THEN 2 ELSE 1 END),
       coalesce(leases.epoch, ready.epoch - 1, scheduled.epoch - 1,
                (SELECT max(epoch) FROM queue.attempts WHERE run = name), 0),
       outputs
FROM queue.runs
LEFT JOIN queue.ready ON (ready.queue, ready.shape, ready.priority) = (runs.queue, runs.shape, runs.priority)
    AND runs.seq >= ready.seq AND runs.seq < ready.seq + ready.size
LEFT JOIN queue.scheduled ON scheduled.run = name
LEFT JOIN queue.leases ON leases.run = name
ORDER BY name
"""
# Of each span, as many as it has, from its first one on.
_READY = """
SELECT run.name, ready.number
FROM queue.ready
CROSS JOIN LATERAL (
    SELECT name FROM queue.runs WHERE name >= first_run ORDER BY name LIMIT ready.size
) AS run
ORDER BY run.name
"""
# An attempt that has not ended is its lease.
_ATTEMPTS = """
SELECT run, epoch, outcome, finish_id, cause, NULL AS event_seq FROM queue.attempts
UNION ALL
SELECT run, epoch, 0, NULL, 0, event_seq FROM queue.leases
ORDER BY run, epoch
"""
_TIMES = {
    "sessions": ("seen_time",),
    "leases": ("grant_time",),
    "ready": ("ready_time", "expire_time"),
    "scheduled": ("due_time",),
    "agents": ("drain_deadline",),
    "leaders": ("expires_at",),
}
_CAUSES = (
    runs_pb2.FAILURE_CAUSE_USER_ERROR,
    runs_pb2.FAILURE_CAUSE_NODE_LOST,
    runs_pb2.FAILURE_CAUSE_PREEMPTED,
)
_REPORTS = ("accept", "refuse", "release", "progress", "finish", "finish twice")
_SWEEPS = ("lost", "unanswered", "promote", "expire", "overdue", "forget", "lead")
_SMALL = st.integers(0, 2)
_ASKED = st.one_of(
    st.tuples(st.just("submit"), _SMALL, _SMALL),
    st.tuples(st.just("submit span"), st.integers(2, 6), _SMALL),
    st.tuples(st.just("submit to"), st.integers(0, 3), _SMALL),
    st.tuples(st.sampled_from(("open", "open many")), _SMALL, st.integers(0, 11)),
    st.tuples(
        st.sampled_from(("renew", "leave", "drain", "drain by", "withhold", "settle")),
        _SMALL,
        st.integers(0, 5),
    ),
    st.tuples(st.just("hand out"), st.just(0), st.just(0)),
    st.tuples(st.just("hand out"), st.just(0), st.just(0)),
    st.tuples(st.sampled_from(_REPORTS), st.integers(0, 5), st.integers(0, 11)),
    st.tuples(st.sampled_from(("cancel", "preempt", "stops")), st.integers(0, 5), st.just(0)),
    st.tuples(st.just("age"), st.integers(0, 3), st.just(0)),
    st.tuples(st.sampled_from(_SWEEPS), _SMALL, st.just(0)),
)
_BEGINNING = (("submit", 1, 0), ("submit", 0, 1), ("open", 0, 0), ("hand out", 0, 0))


class Pair:
    """Asks both stores the same and compares answers and rows."""

    def __init__(self, engine: AsyncEngine, database: Database) -> None:
        self.engine = engine
        self.database = database
        self.now = 1000.0
        self.memory = MemoryLeaseStore(lambda: self.now, chance=lambda: 0.0)
        self.claims = Claims(database)
        self.postgres = PostgresLeaseStore(database, self.claims)
        self.sessions: dict[str, SessionKey] = {}
        self.first: dict[str, SessionKey] = {}
        self.numbers = iter(range(1, 10_000))

    async def begin(self) -> None:
        spec = queues_pb2.QueueSpec()
        self.memory.put_queue(QUEUE, spec)
        async with transaction(self.engine) as connection:
            tables = ", ".join(f"queue.{name}" for name in _TABLES)
            await connection.execute(text(f"TRUNCATE {tables} RESTART IDENTITY"))
            await queues.create(connection, QUEUE, spec.SerializeToString())

    async def both(self, ask: Callable[[LeaseStore], Any]) -> None:
        answers = []
        for store in (self.memory, self.postgres):
            try:
                answers.append(_plain(await ask(store)))
            except TowlineError as error:
                answers.append(error.reason)
        assert answers[0] == answers[1]

    async def do(self, what: str, who: int, how: int) -> None:
        match what:
            case "submit":
                await self._submit(who, how)
            case "submit span":
                await self._submit_span(who, how)
            case "submit to":
                await self._submit_to(who, how)
            case "cancel" | "preempt":
                await self._ask_api(what, who)
            case "drain by":
                await self._drain_by(who, how)
            case "age":
                await self._age((1.0, 11.0, 35.0, 130.0)[who])
            case "open":
                await self._open((who, how))
            case "open many":  # one of them twice
                await self._open((who, how), ((who + 1) % 3, (how + 5) % 12), (who, (how + 7) % 12))
            case "renew" | "leave" | "drain" | "withhold" | "settle":
                await self._ask_session(what, who, how)
            case "hand out":
                await self._hand_out()
            case "stops":
                names = sorted(self.memory.tables.runs)
                await self.both(lambda store: store.stops(names))
            case _ if what in _SWEEPS:
                await self._sweep(what, who)
            case _:
                await self._report(what, who, how)
        assert await self._rows() == self._memory_rows()
        assert not violations(self.memory.history)

    async def _submit(self, gpus: int, how: int) -> None:
        new = self._new(gpus, how)
        self.memory.submit(new)
        assert await new_runs.store(self.database, [new_runs.single(new)]) == [new_runs.Outcome.STORED]

    async def _submit_span(self, count: int, how: int) -> None:
        """Store runs of one kind, which wait as one span."""
        new = [self._new(0, how) for _ in range(count)]
        for each in new:
            self.memory.submit(each)
        assert await new_runs.store(self.database, [together(new)]) == [new_runs.Outcome.STORED]

    async def _submit_to(self, who: int, gpus: int) -> None:
        """Store a lone run, perhaps with an offer: as a submission, and a claim where it is the first."""
        new, lane = self._new(gpus, who), Lane(QUEUE, gpus)
        offers = self._offers()[who : who + 1]
        tables = self.memory.tables
        first = not any(Lane(tables.runs[run].queue, tables.runs[run].shape) == lane for run in tables.ready)
        self.memory.submit(new)
        claimed: Sequence[Claimed] = []
        if offers and first:
            claimed = (await _hand_out(self.memory, offers, [Search(lane, 1, anew=False)])).claimed
        outcome, lease = await self.claims.store(
            await self._lone(new), offers, lambda free, _: spread(free, lane, 1)
        )
        assert outcome is new_runs.Outcome.STORED
        assert _plain([lease] if lease else []) == _plain(claimed)

    async def _lone(self, new: NewRun) -> new_runs.NewRuns:
        kind, own_spec = taken_apart(new)
        async with transaction(self.engine) as connection:
            spec = {"digest": kind.digest, "spec": kind.spec, "queue_spec": b"", "max_wait": kind.max_wait}
            spec["retry_policy"] = kind.retry_policy
            await connection.execute(insert(launch_specs).values(spec).on_conflict_do_nothing())
        version = (await new_runs.queue_versions(self.database, [QUEUE]))[QUEUE]
        made = new_runs.NewRuns(
            key=RequestKey("SubmitRunRequest", uuid4(), b""),
            response=b"",
            kinds=[new_runs.NewKind(kind, version, None)],
            names=[new.spec.run],
            own_specs=[own_spec],
            run_kinds=[1],
        )
        assert made.lone
        return made

    def _new(self, gpus: int, how: int) -> NewRun:
        policy = runs_pb2.RetryPolicy()
        policy.budgets.add(cause=runs_pb2.FAILURE_CAUSE_USER_ERROR, max_retries=how % 2)
        policy.budgets.add(cause=runs_pb2.FAILURE_CAUSE_NODE_LOST, max_retries=1)
        spec = runs_pb2.LaunchSpec(
            run=f"runs/r{next(self.numbers):03}",
            queue=QUEUE,
            retry_policy=policy_of(policy, runs_pb2.RetryPolicy()),
        )
        spec.docker.gpus = gpus
        if how == 2:
            spec.limits.max_wait.FromTimedelta(timedelta(seconds=20))
        return NewRun(spec, runs_pb2.PRIORITY_MEDIUM, {}, {}, None, "", b"")

    async def _ask_api(self, what: str, number: int) -> None:
        names = sorted(self.memory.tables.runs)
        if not names:
            return
        name = RunName(names[number % len(names)])
        answers: list[str] = []
        try:
            (self.memory.cancel if what == "cancel" else self.memory.preempt)(name)
        except TowlineError as error:
            answers.append(error.reason)
        try:
            async with transaction(self.engine) as connection:
                await (runs.cancel if what == "cancel" else runs.preempt)(connection, name)
        except TowlineError as error:
            answers.append(error.reason)
        assert len(set(answers)) <= 1
        assert len(answers) != 1

    async def _drain_by(self, who: int, how: int) -> None:
        agent = f"agents/{who}"
        if agent in self.memory.tables.agents:
            deadline = timedelta(seconds=10) if how % 2 else None
            self.memory.drain_by(agent, deadline)
            async with transaction(self.engine) as connection:
                await agents.drain_by(connection, agent, deadline)  # type: ignore[arg-type] # a valid name

    async def _age(self, seconds: float) -> None:
        """Let time pass: in PostgreSQL by moving every moment back."""
        self.now += seconds
        async with transaction(self.engine) as connection:
            for table, columns in _TIMES.items():
                sets = ", ".join(f"{column} = {column} - make_interval(secs => :s)" for column in columns)
                await connection.execute(text(f"UPDATE queue.{table} SET {sets}"), {"s": seconds})

    async def _open(self, *asked: tuple[int, int]) -> None:
        openings = [self._opening(who, how) for who, how in asked]
        await self.both(lambda store: _open(store, openings))
        for key in (SessionKey(one.session, one.newcomer.agent) for one in openings):
            agent = self.memory.tables.agents.get(key.agent)
            if agent is not None and agent.session == key.id:
                self.sessions[key.agent] = key
                self.first.setdefault(key.agent, key)

    def _opening(self, who: int, how: int) -> Opening:
        agent = f"agents/{who}"
        facts = {
            "hostname": "host",
            "version": "test",
            "queues": [QUEUE],
            "capacity": leases_pb2.Capacity(slots=3).SerializeToString(),
            "gpus": [],
            "labels": {},
        }
        before = self.memory.tables.agents.get(agent)
        late = 2 if how == 11 and before else 0
        number = max((before.hello_seq if before else 0) + 1 - late, 0)
        newcomer = Newcomer(agent, "ab"[how % 9 == 8], "boot", how % 2 == 0, facts, number)
        queues = ("queues/gone",) if how == 10 else (QUEUE,)
        return Opening(UUID(int=next(self.numbers)), newcomer, queues, self._inventory(agent, how))

    def _inventory(self, agent: str, how: int) -> list[InventoryEntry]:
        """All attempts that the agent ever had, but for some: whole, without leases, or without results."""
        entries = []
        for index, (key, row) in enumerate(sorted(self.memory.tables.attempts.items())):
            if row.agent == agent and (how + index) % 3:
                state = (State.LEASED, State.RUNNING)[(how + index) % 2]
                entries.append(InventoryEntry(lease_id(key), key.epoch, key, state))
        return [*entries, InventoryEntry("nonsense", 1, None, State.RUNNING)] if how == 5 else entries

    async def _ask_session(self, what: str, who: int, how: int) -> None:
        key = self.sessions.get(f"agents/{who}", SessionKey(UUID(int=0), f"agents/{who}"))
        if how == 5:
            key = SessionKey(UUID(int=1_000_000), key.agent)  # one that never was
        if how == 4:
            key = self.first.get(key.agent, key)
        match what:
            case "renew":
                await self.both(lambda store: store.renew([key], look=how % 3 > 0))
            case "leave":
                await self.both(lambda store: store.leave(key))
            case "drain":
                await self.both(lambda store: store.drain(key))
            case "withhold":
                await self.both(lambda store: store.withhold(key, ("", "its disk is full")[how % 2]))
            case _:
                entries = self._inventory(key.agent, how)
                keys = frozenset(entry.key for entry in entries if entry.key)
                held = frozenset(lease.key for lease in self.memory.tables.leases.values())
                inventory = Inventory(entries, speaks_for=None if how % 2 else keys | held)
                await self.both(lambda store: store.settle(key, inventory))

    def _offers(self) -> list[Offer]:
        gpus = frozenset({"GPU-0", "GPU-1"})
        return [Offer(key.id, key.agent, (QUEUE,), 2, gpus, 2) for key in self.sessions.values()]

    async def _hand_out(self) -> None:
        offers = self._offers()
        searches = [Search(lane, most, anew=False) for lane, most in lanes(offers).items()]
        if searches:
            await self.both(lambda store: _hand_out(store, offers, searches))
            await self.both(lambda store: _hand_out(store, offers, [Search(Lane(QUEUE, 0), 2, anew=True)]))

    async def _report(self, what: str, number: int, how: int) -> None:
        attempts = sorted(self.memory.tables.attempts)
        if not attempts:
            return
        key = attempts[number % len(attempts)]
        if how == 11:  # an epoch that never was
            key = AttemptKey(key.run, key.epoch + 1)
        report = Report()
        match what:
            case "accept" | "refuse":
                report.replies.append(Reply(key, what == "accept"))
            case "release":
                report.returned.append(Returned(key, ""))
            case "progress":
                state = (State.PREPARING, State.RUNNING, State.STOPPING)[how % 3]
                report.progress.append(Progress(key, how // 3, state))
            case _:
                report.results.extend([_result(key, how)] * (2 if what == "finish twice" else 1))
        await self.both(lambda store: store.carry_out([SaidBy("agents/0", report)]))

    async def _sweep(self, what: str, who: int) -> None:
        match what:
            case "lost":
                health = timedelta(seconds=(0, 119, 10_000)[who])
                await self.both(lambda store: store.take_back_lost(health))
            case "unanswered":
                await self.both(lambda store: store.take_back_unanswered(timedelta(seconds=10)))
            case "promote":
                await self.both(lambda store: store.promote())
            case "expire":
                await self.both(lambda store: store.expire_waiting())
            case "overdue":
                await self.both(lambda store: store.preempt_overdue_drains())
            case "forget":
                await self.both(lambda store: store.forget_sessions())
            case _:
                await self.both(lambda store: store.lead("it", UUID(int=who), timedelta(seconds=20)))

    async def _rows(self) -> list[Any]:
        async with transaction(self.engine) as connection:

            async def read(query: str) -> list[Any]:
                return [tuple(row) for row in await connection.execute(text(query))]

            return [
                await read(_RUNS),
                await read(_READY),
                await read("SELECT run, number FROM queue.scheduled ORDER BY run"),
                await read(
                    "SELECT run, epoch, session, agent, array_to_string(gpu_ids, ','), accepted, "
                    "stop_requested FROM queue.leases ORDER BY run"
                ),
                await read(_ATTEMPTS),
                await read(
                    "SELECT name, instance_id, session, session_epoch, hello_seq, draining, "
                    "drain_deadline IS NULL, withheld FROM queue.agents ORDER BY name"
                ),
                await read("SELECT id, agent, epoch FROM queue.sessions ORDER BY id"),
            ]

    def _next_number(self, run: str) -> int:
        """Count the run's attempts that began, and one."""
        before = [row for key, row in self.memory.tables.attempts.items() if key.run == run]
        return 1 + sum(row.outcome != runs_pb2.ATTEMPT_OUTCOME_RELEASED for row in before)

    def _memory_rows(self) -> list[Any]:
        tables = self.memory.tables
        held = {lease.key for lease in tables.leases.values()}
        return [
            [(run.name, run.state, run.epoch, run.outputs) for _, run in sorted(tables.runs.items())],
            [(name, self._next_number(name)) for name in sorted(tables.ready)],
            [(name, self._next_number(name)) for name in sorted(tables.scheduled)],
            [
                (
                    *row.key,
                    row.session,
                    row.agent,
                    ",".join(row.gpu_ids),
                    row.accepted,
                    stop_reason(
                        row.key.epoch,
                        cancel_requested=tables.runs[name].cancel_requested,
                        preempt_epoch=tables.runs[name].preempt_epoch,
                    ),
                )
                for name, row in sorted(tables.leases.items())
            ],
            [
                (*key, row.outcome, row.finish_id, row.cause, row.event_seq if key in held else None)
                for key, row in sorted(tables.attempts.items())
            ],
            [
                (
                    name,
                    row.instance_id,
                    row.session,
                    row.session_epoch,
                    row.hello_seq,
                    row.draining,
                    row.drain_deadline is None,
                    row.withheld,
                )
                for name, row in sorted(tables.agents.items())
            ],
            [(id_, row.agent, row.epoch) for id_, row in sorted(tables.sessions.items())],
        ]


def _result(key: AttemptKey, how: int) -> Result:
    state = (State.SUCCEEDED, State.FAILED, State.CANCELLED)[how % 3]
    failure = None
    if state is not State.SUCCEEDED:
        cause = _CAUSES[how // 4] if state is State.FAILED else runs_pb2.FAILURE_CAUSE_CANCELLED
        failure = runs_pb2.Failure(cause=cause).SerializeToString()
    return Result(key, UUID(int=100 + how % 2), state, OUTCOMES[state], 0, failure, "artifacts/a/versions/v0")


def _plain(answer: Any) -> Any:
    """Make answers comparable that say the same in another order, or in other words for people."""
    if isinstance(answer, Claimed):
        return tuple(answer._replace(spec=b""))
    if hasattr(answer, "__dataclass_fields__"):
        kept = {name: _plain(getattr(answer, name)) for name in answer.__dataclass_fields__}
        return {name: value for name, value in kept.items() if name not in ("spec", "policy")}
    if isinstance(answer, dict):
        return sorted((repr(key), repr(_plain(value))) for key, value in answer.items())
    if isinstance(answer, AttemptKey | SessionKey):
        return tuple(answer)
    if isinstance(answer, list | tuple | set | frozenset):
        return sorted((_plain(one) for one in answer), key=repr)
    return answer


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@example(asked=[("age", 2, 0), ("open", 0, 8), ("age", 0, 0), ("renew", 0, 4), ("age", 3, 0), ("lost", 2, 0)])
@given(asked=st.lists(_ASKED, min_size=15, max_size=45))
def test_both_stores_do_the_same(database_url: str, asked: list[tuple[str, int, int]]) -> None:
    async def ask() -> None:
        async with connecting(database_url) as engine, opening(engine, size=2) as database:
            pair = Pair(engine, database)
            await pair.begin()
            for what, who, how in [*_BEGINNING, *asked]:
                await pair.do(what, who, how)

    asyncio.run(ask())


async def _open(store: LeaseStore, openings: Sequence[Opening]) -> dict[int, Opened | str]:
    """Open sessions; return what became of each, by its position, or the reason why it is not open."""
    answers = await store.open_sessions(openings)
    return {
        position: answer.reason if isinstance(answer, TowlineError) else answer
        for position, answer in enumerate(answers)
    }


async def _hand_out(store: LeaseStore, offers: Sequence[Offer], searches: Sequence[Search]) -> HandedOut:
    """Hand out as a replica does, without leaving out sessions that have ended."""

    def choose(free: Sequence[Offer], waiting: Sequence[WaitingRun] | None) -> list[Place]:
        if waiting is None:
            return spread(free, searches[0].lane, searches[0].most)
        agents = {offer.session: offer.agent for offer in free}
        return places(match(free, waiting, reserve_after=timedelta(hours=1)), waiting, agents)

    return await store.hand_out(offers, searches, choose)
