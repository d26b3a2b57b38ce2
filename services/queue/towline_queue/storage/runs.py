"""Runs in PostgreSQL: how the API moves them.

A waiting run is in exactly one row of `ready` or `scheduled`. Who deletes that row, and nobody else,
moves the run on: so a cancel and a dispatcher that reach for the same run want the same lock, and one of
them finds nothing. Where it was one of a span, those that are left wait as one or two others.
"""

from typing import Any, Final, cast

from sqlalchemy import ColumnElement, Row, Select, delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from towline.errors import FailedPrecondition, Internal, ResourceExhausted
from towline.names import RunName
from towline.v1 import leases_pb2, runs_pb2
from towline_queue.core.submission import NewRun
from towline_queue.core.transitions import CANCEL_WAITING, TERMINAL
from towline_queue.storage import run_records
from towline_queue.storage.run_records import not_found, waiting_span
from towline_queue.storage.tables import (
    MAX_WAITING,
    launch_specs,
    leases,
    queue_specs,
    ready,
    runs,
    scheduled,
)

__all__ = ["cancel", "ended", "preempt"]

# Each round that changes nothing means that somebody else moved the run in between, or another of its span.
_CANCEL_ROUNDS: Final = 20 + MAX_WAITING
_CANCELLED: Final = leases_pb2.STOP_REASON_CANCELLED
_PREEMPTED: Final = leases_pb2.STOP_REASON_PREEMPTED
_CANCELLED_WAITING: Final = runs_pb2.Failure(
    cause=runs_pb2.FAILURE_CAUSE_CANCELLED, message="Somebody asked for it to stop while it was waiting."
).SerializeToString()


async def ended(connection: AsyncConnection, name: RunName) -> NewRun:
    """Return a run that has ended, as it was submitted.

    Raises:
        NotFound: RUN_NOT_FOUND.
        FailedPrecondition: It has not ended; RUN_NOT_ENDED.
    """
    record = await run_records.get(connection, name)
    if record.state not in TERMINAL:
        raise FailedPrecondition(
            f"{name} has not ended, it is {record.state.name}; wait for it or cancel it, then retry",
            reason="RUN_NOT_ENDED",
            metadata={"run": name, "state": record.state.name},
        )
    queue_spec = (
        select(queue_specs.c.spec)
        .join(launch_specs, launch_specs.c.queue_spec == queue_specs.c.digest)
        .join(runs, runs.c.launch_spec == launch_specs.c.digest)
        .where(runs.c.name == name)
    )
    return NewRun(
        spec=runs_pb2.LaunchSpec.FromString(record.spec),
        priority=cast("runs_pb2.Priority.ValueType", record.priority),
        variables=record.variables,
        labels=record.labels,
        due=None,
        retry_of=record.retry_of,
        queue_spec=(await connection.execute(queue_spec)).scalar_one(),
    )


async def cancel(connection: AsyncConnection, name: RunName) -> None:
    """Cancel a waiting run, or ask for an active one to be stopped; leave one that has ended as it is.

    Raises:
        NotFound: RUN_NOT_FOUND.
        ResourceExhausted: The run changed hands all the time; OVERLOADED.
    """
    place: Select[Any] = select(runs.c.queue, runs.c.shape, runs.c.priority, runs.c.seq, runs.c.state).where(
        runs.c.name == name
    )
    for _ in range(_CANCEL_ROUNDS):
        run = (await connection.execute(place)).one_or_none()
        if run is None:
            raise not_found(name)
        if run.state is not None:
            return
        if await _cancel_waiting(connection, name, run) or await _request_stop(connection, name, _CANCELLED):
            return
    raise ResourceExhausted(f"{name} changes too fast to be cancelled; try again", reason="OVERLOADED")


async def _cancel_waiting(connection: AsyncConnection, name: RunName, run: Row[Any]) -> bool:
    if not await _take_ready(connection, name, run):
        taken = await connection.execute(delete(scheduled).where(scheduled.c.run == name))
        if not taken.rowcount:
            return False
    moved = await connection.execute(
        update(runs)
        .where(runs.c.name == name, runs.c.state.is_(None))
        .values(state=CANCEL_WAITING.target, failure=_CANCELLED_WAITING, end_time=func.now())
    )
    if moved.rowcount != 1:  # keeps the row that was taken
        raise Internal(f"{name} was waiting but has ended", reason="INTERNAL")
    return True


async def _take_ready(connection: AsyncConnection, name: RunName, run: Row[Any]) -> bool:
    """Take a run out of the span that it waits in, if it does; the others wait where they did."""
    taken = await connection.execute(delete(ready).where(waiting_span(run)).returning(ready))
    span = taken.mappings().one_or_none()
    if span is None:
        return False
    before = run.seq - span["seq"]
    after = span["size"] - before - 1
    if before:
        await connection.execute(insert(ready).values({**span, "size": before}))
    if after:
        following = select(runs.c.name).where(runs.c.name > name).order_by(runs.c.name).limit(1)
        rest = {"first_run": following.scalar_subquery(), "seq": run.seq + 1, "size": after}
        await connection.execute(insert(ready).values({**span, **rest}))
    return True


async def _request_stop(connection: AsyncConnection, name: RunName, wish: int | ColumnElement[int]) -> bool:
    """Ask for the current attempt to be stopped, if there is one; the wish goes with its lease."""
    asked = await connection.execute(update(leases).where(leases.c.run == name).values(stop_requested=wish))
    return asked.rowcount == 1


async def preempt(connection: AsyncConnection, name: RunName) -> None:
    """Ask for a run's current attempt to be stopped and the run to be queued again.

    Raises:
        NotFound: RUN_NOT_FOUND.
        FailedPrecondition: No agent holds it; RUN_NOT_ACTIVE.
    """
    # A cancel that was asked for before counts more.
    if await _request_stop(connection, name, func.coalesce(leases.c.stop_requested, _PREEMPTED)):
        return
    state = (await run_records.get(connection, name)).state
    raise FailedPrecondition(
        f"{name} is {state.name}; only a run that an agent holds can be preempted",
        reason="RUN_NOT_ACTIVE",
        metadata={"run": name, "state": state.name},
    )
