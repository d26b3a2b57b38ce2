"""Runs in PostgreSQL: what is known of them, for readers."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, Row, Select, and_, exists, func, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from towline.errors import NotFound
from towline.names import RunName
from towline_queue.core.transitions import ACTIVE, WAITING, State
from towline_queue.storage.statements import REACHABLE
from towline_queue.storage.tables import attempts, leases, ready, runs, scheduled, sessions

__all__ = ["AttemptRecord", "RunFilter", "RunRecord", "get", "newest_first", "not_found"]


@dataclass(frozen=True)
class AttemptRecord:
    """One execution of a run; numbers are those of the enums in towline.v1."""

    epoch: int
    agent: str
    gpu_ids: Sequence[str]
    lease_time: datetime
    prepare_time: datetime | None
    start_time: datetime | None
    end_time: datetime | None
    image_outcome: int
    image_id: str
    exit_code: int | None
    failure: bytes | None
    outcome: int
    outputs: str


@dataclass(frozen=True)
class RunRecord:
    """A run as it is now.

    Attributes:
        shape: GPUs that it needs.
        spec: The serialized LaunchSpec.
        failure: The serialized Failure; None: it has not failed.
        due_time: When it may start, while it is SCHEDULED.
        expire_time: When it has waited for too long, while it is QUEUED and there is a limit.
        preempt_requested: Whether its current attempt is being stopped to be queued again.
        unreachable: Whether the session that holds it has been silent for too long.
        attempts: Oldest first.
    """

    name: RunName
    seq: int
    queue: str
    priority: int
    shape: int
    state: State
    job_version: str
    display_name: str
    author: str
    labels: Mapping[str, str]
    variables: Mapping[str, str]
    spec: bytes
    retry_of: str
    create_time: datetime
    due_time: datetime | None
    expire_time: datetime | None
    cancel_requested: bool = False
    preempt_requested: bool = False
    state_detail: str = ""
    failure: bytes | None = None
    outputs: str = ""
    end_time: datetime | None = None
    unreachable: bool = False
    attempts: list[AttemptRecord] = field(default_factory=list)

    @property
    def waits(self) -> bool:
        """Whether nobody holds it and it has not ended."""
        return self.state in WAITING


@dataclass(frozen=True)
class RunFilter:
    """Which runs; what is empty holds for all."""

    queue: str = ""
    job: str = ""
    states: Sequence[int] = ()
    author: str = ""
    labels: dict[str, str] = field(default_factory=dict)


# Silent, or of a session that is gone: either way nobody has heard of the run for too long.
_SILENT: Final = ~exists().where(sessions.c.id == leases.c.session, REACHABLE)
_HELD: Final = and_(leases.c.run.is_not(None), runs.c.state.in_(ACTIVE))
_QUERY: Final = (
    select(
        runs,
        scheduled.c.due_time,
        ready.c.expire_time,
        func.coalesce(and_(_HELD, runs.c.preempt_epoch == runs.c.epoch), False).label("preempt_requested"),
        and_(_HELD, _SILENT).label("unreachable"),
    )
    .outerjoin(scheduled, scheduled.c.run == runs.c.name)
    .outerjoin(ready, ready.c.run == runs.c.name)
    .outerjoin(leases, leases.c.run == runs.c.name)
)


async def get(connection: AsyncConnection, name: RunName) -> RunRecord:
    """Return a run; NotFound/RUN_NOT_FOUND if there is none."""
    row = (await connection.execute(_QUERY.where(runs.c.name == name))).one_or_none()
    if row is None:
        raise not_found(name)
    return (await _with_attempts(connection, [row]))[0]


async def newest_first(
    connection: AsyncConnection, wanted: RunFilter, *, before: int | None, size: int, most_bytes: int
) -> tuple[list[RunRecord], bool]:
    """Return a page of runs, newest first, and whether there are more.

    Args:
        connection: The transaction.
        wanted: Which runs.
        before: Only those with a lower `seq`; None: all.
        size: Most runs to return.
        most_bytes: Bound of their specs together; the first run is returned in any case.
    """
    query = _QUERY.order_by(runs.c.seq.desc()).limit(size + 1).where(*_conditions(wanted))
    if before is not None:
        query = query.where(runs.c.seq < before)
    rows: list[Row[Any]] = []
    more = False
    async for row in _stream(connection, query):
        most_bytes -= len(row.spec)
        if len(rows) == size or (rows and most_bytes < 0):
            more = True
            break
        rows.append(row)
    return await _with_attempts(connection, rows), more


def _conditions(wanted: RunFilter) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    if wanted.queue:
        conditions.append(runs.c.queue == wanted.queue)
    if wanted.job:
        of_job = func.starts_with(runs.c.job_version, f"{wanted.job}/versions/")
        conditions.append(or_(runs.c.job_version == wanted.job, of_job))
    if wanted.states:
        conditions.append(runs.c.state.in_(wanted.states))
    if wanted.author:
        conditions.append(runs.c.author == wanted.author)
    if wanted.labels:
        conditions.append(runs.c.labels.contains(wanted.labels))
    return conditions


async def _stream(connection: AsyncConnection, query: Select[Any]) -> AsyncIterator[Row[Any]]:
    """Give rows as they come, so that a page of large runs is not read whole to be cut."""
    async with connection.stream(query) as result:
        async for row in result:
            yield row


async def _with_attempts(connection: AsyncConnection, rows: Sequence[Row[Any]]) -> list[RunRecord]:
    records = [_record(row) for row in rows]
    by_name = {record.name: record for record in records}
    query = select(attempts).where(attempts.c.run.in_(by_name)).order_by(attempts.c.run, attempts.c.epoch)
    for row in (await connection.execute(query)).all():
        by_name[row.run].attempts.append(
            AttemptRecord(**{name: getattr(row, name) for name in AttemptRecord.__dataclass_fields__})
        )
    return records


def _record(row: Row[Any]) -> RunRecord:
    fields = {name: getattr(row, name) for name in RunRecord.__dataclass_fields__ if name != "attempts"}
    return RunRecord(**(fields | {"state": State(row.state)}))


def not_found(name: str) -> NotFound:
    """Make the error for a run that does not exist."""
    return NotFound(
        f"{name} does not exist; `towline run list` shows those that do",
        reason="RUN_NOT_FOUND",
        metadata={"run": name},
    )
