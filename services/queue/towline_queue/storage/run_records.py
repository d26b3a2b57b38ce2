"""Runs in PostgreSQL: what is known of them, for readers.

Where a run is, is its state: each statement here reads `runs` and the three places together, so in one
snapshot, and finds a run that has not ended in exactly one of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Row,
    ScalarSelect,
    Select,
    Text,
    and_,
    any_,
    bindparam,
    case,
    exists,
    func,
    select,
    true,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from towline.errors import NotFound
from towline.names import RunName
from towline.v1 import leases_pb2, logs_pb2, runs_pb2
from towline_queue.core.transitions import WAITING, State
from towline_queue.storage.statements import REACHABLE
from towline_queue.storage.tables import (
    MAX_WAITING,
    attempts,
    launch_specs,
    leases,
    log_streams,
    ready,
    runs,
    scheduled,
    sessions,
)

__all__ = [
    "LIVE_STATE",
    "RECORDS",
    "AttemptRecord",
    "RunRecord",
    "get",
    "not_found",
    "records",
    "waiting_span",
]


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
    image_time: datetime | None = None
    image_facts: bytes | None = None
    """towline.v1.AttemptImage, serialized; None: not told."""
    first_output_time: datetime | None = None


@dataclass(frozen=True)
class RunRecord:
    """A run as it is now.

    Attributes:
        shape: GPUs that it needs.
        spec: The serialized LaunchSpec.
        state_detail: How it came to its end, what its agent says that goes on, or why it waits again.
        failure: The serialized Failure; None: it has not failed.
        due_time: When it may start, while it is SCHEDULED.
        expire_time: When it has waited for too long, while it is QUEUED and there is a limit.
        preempt_requested: Whether its current attempt is being stopped to be queued again.
        unreachable: Whether the session that holds it has been silent for too long.
        results: A towline.v1.AttemptResult, serialized: what its last attempt told, once it has ended.
        attempts: Oldest first, with the one that goes on.
    """

    name: RunName
    seq: int
    queue: str
    priority: int
    shape: int
    state: State
    job_version: str
    author: str
    labels: Mapping[str, str]
    variables: Mapping[str, str]
    spec: bytes
    retry_of: str
    create_time: datetime
    due_time: datetime | None = None
    expire_time: datetime | None = None
    cancel_requested: bool = False
    preempt_requested: bool = False
    state_detail: str = ""
    failure: bytes | None = None
    outputs: str = ""
    results: bytes | None = None
    end_time: datetime | None = None
    unreachable: bool = False
    attempts: list[AttemptRecord] = field(default_factory=list)

    @property
    def waits(self) -> bool:
        """Whether nobody holds it and it has not ended."""
        return self.state in WAITING


def waiting_span(run: Any) -> ColumnElement[bool]:
    """Say which row of `ready` is that of the span that a run, given by row or columns, waits in."""
    return and_(
        ready.c.queue == run.queue,
        ready.c.shape == run.shape,
        ready.c.priority == run.priority,
        ready.c.seq <= run.seq,
        ready.c.seq > run.seq - MAX_WAITING,  # so that no more than these are looked at
        ready.c.seq + ready.c.size > run.seq,
    )


# By LATERAL and LIMIT, so that a row is looked up for each run: joined, the planner may read all of `ready`.
_lease = select(leases).where(leases.c.run == runs.c.name).limit(1).lateral("lease").c
_ready = select(ready).where(waiting_span(runs.c)).limit(1).lateral("waiting").c
_scheduled = select(scheduled).where(scheduled.c.run == runs.c.name).limit(1).lateral("due").c


def _first_output(attempt: Any) -> ScalarSelect[Any]:
    """Say when an attempt's program printed first; its log says it, so no report has to."""
    return (
        select(log_streams.c.first_time)
        .where(
            log_streams.c.run == attempt.run,
            log_streams.c.epoch == attempt.epoch,
            log_streams.c.stream == logs_pb2.LOG_STREAM_OUTPUT,
        )
        .scalar_subquery()
    )


_DETAILS: Final = (_lease.detail, _ready.detail, _scheduled.detail)

LIVE_STATE: Final = case(
    (_lease.run.is_not(None), _lease.state),
    (_ready.first_run.is_not(None), int(State.QUEUED)),
    (_scheduled.run.is_not(None), int(State.SCHEDULED)),
)
"""In `RECORDS`: state of a run that has not ended; null for one that has."""

# Silent, or of a session that is gone: either way nobody has heard of the run for too long.
_SILENT: Final = ~exists().where(sessions.c.id == _lease.session, REACHABLE)
_OWN: Final = tuple(
    name for name in RunRecord.__dataclass_fields__ if name in runs.c and name not in ("state", "own_spec")
)

RECORDS: Final[Select[Any]] = (
    select(
        *(runs.c[name] for name in _OWN),
        launch_specs.c.spec.op("||")(runs.c.own_spec).label("spec"),
        func.coalesce(runs.c.state, LIVE_STATE).label("state"),
        func.coalesce(runs.c.detail, _lease.detail, _ready.detail, _scheduled.detail, "").label(
            "state_detail"
        ),
        _scheduled.due_time,
        _ready.expire_time,
        _lease.stop_requested,
        and_(_lease.run.is_not(None), _SILENT).label("unreachable"),
        func.coalesce(_lease.epoch, _ready.epoch, _scheduled.epoch).label("epoch"),
        _lease.agent,
        _lease.gpu_ids,
        _lease.grant_time,
        _lease.prepare_time,
        _lease.start_time,
        _lease.image_outcome,
        _lease.image_id,
        _lease.image_time,
        _lease.image_facts,
        _first_output(_lease).label("first_output_time"),
    )
    .join(launch_specs, launch_specs.c.digest == runs.c.launch_spec)
    .outerjoin(_lease.run.table, true())
    .outerjoin(_ready.first_run.table, true())
    .outerjoin(_scheduled.run.table, true())
)
"""What `records` makes RunRecords of; narrow it down as needed."""

_ENDED_ATTEMPTS: Final[Select[Any]] = (
    select(
        *(attempts.c[name] for name in ("run", *AttemptRecord.__dataclass_fields__) if name in attempts.c),
        _first_output(attempts.c).label("first_output_time"),
    )
    # No attempt ended before its run was made, so older partitions are not looked into.
    .where(
        attempts.c.run == any_(bindparam("names", type_=ARRAY(Text))),
        attempts.c.end_time >= bindparam("since"),
    )
    .order_by(attempts.c.run, attempts.c.epoch)
)


async def get(connection: AsyncConnection, name: RunName) -> RunRecord:
    """Return a run; NotFound/RUN_NOT_FOUND if there is none."""
    row = (await connection.execute(RECORDS.where(runs.c.name == name))).one_or_none()
    if row is None:
        raise not_found(name)
    return (await records(connection, [row]))[0]


async def records(connection: AsyncConnection, rows: Sequence[Row[Any]]) -> list[RunRecord]:
    """Make records of rows of RECORDS, in their order, with their attempts as of the same moment."""
    made = {row.name: _record(row) for row in rows}
    # The first lease of a run has the epoch 1: one that never had a lease has no attempts either.
    past = {row.name: row.epoch for row in rows if row.epoch is None or row.epoch > 1}
    if past:
        since = min(made[name].create_time for name in past)
        for row in (await connection.execute(_ENDED_ATTEMPTS, {"names": list(past), "since": since})).all():
            epoch = past[row.run]
            if epoch is None or row.epoch < epoch:  # a later one has ended since the run was read
                made[row.run].attempts.append(_attempt(row))
    for row in rows:
        if row.agent is not None:
            made[row.name].attempts.append(_open_attempt(row))
    return list(made.values())


def _record(row: Row[Any]) -> RunRecord:
    own = {name: getattr(row, name) for name in _OWN}
    state = State(row.state)
    return RunRecord(
        **own,
        spec=row.spec,
        state=state,
        state_detail=row.state_detail,
        due_time=row.due_time,
        expire_time=row.expire_time,
        cancel_requested=state is State.CANCELLED or row.stop_requested == leases_pb2.STOP_REASON_CANCELLED,
        preempt_requested=row.stop_requested == leases_pb2.STOP_REASON_PREEMPTED,
        unreachable=row.unreachable,
    )


def _attempt(row: Row[Any]) -> AttemptRecord:
    return AttemptRecord(**{name: getattr(row, name) for name in AttemptRecord.__dataclass_fields__})


def _open_attempt(row: Row[Any]) -> AttemptRecord:
    return AttemptRecord(
        epoch=row.epoch,
        agent=row.agent,
        gpu_ids=row.gpu_ids,
        lease_time=row.grant_time,
        prepare_time=row.prepare_time,
        start_time=row.start_time,
        end_time=None,
        image_outcome=row.image_outcome,
        image_id=row.image_id,
        exit_code=None,
        failure=None,
        outcome=runs_pb2.ATTEMPT_OUTCOME_UNSPECIFIED,
        outputs="",
        image_time=row.image_time,
        image_facts=row.image_facts,
        first_output_time=row.first_output_time,
    )


def not_found(name: str) -> NotFound:
    """Make the error for a run that does not exist."""
    return NotFound(
        f"{name} does not exist; `towline run list` shows those that do",
        reason="RUN_NOT_FOUND",
        metadata={"run": name},
    )
