"""Attempts in PostgreSQL: every function is one compare-and-set on (run, epoch) for a whole batch.

Each returns the attempts it changed; the others are stale: over, or in another agent's hands.
All of them lock the rows of `runs` first, in the order of their names.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from towline.v1 import runs_pb2
from towline_queue.core import transitions
from towline_queue.core.lease_ids import AttemptKey
from towline_queue.core.reports import Progress, Result
from towline_queue.core.transitions import ACTIVE, State, Transition
from towline_queue.storage.statements import statement
from towline_queue.storage.tables import attempts

__all__ = ["GivenBack", "accept", "advance", "finish", "finish_ids", "give_back"]

_CANCELLED_BEFORE_START = runs_pb2.Failure(
    cause=runs_pb2.FAILURE_CAUSE_CANCELLED, message="Cancelled on request."
).SerializeToString()
_NODE_LOST = runs_pb2.Failure(
    cause=runs_pb2.FAILURE_CAUSE_NODE_LOST,
    message="The agent was silent for longer than the queue's lost_after, or no longer has the run.",
).SerializeToString()


async def accept(connection: AsyncConnection, keys: Sequence[AttemptKey]) -> set[AttemptKey]:
    """Mark leases as taken by their agents."""
    rows = await connection.execute(
        statement("attempt_accept"),
        {
            "runs": [key.run for key in keys],
            "epochs": [key.epoch for key in keys],
            "active": sorted(ACTIVE),
        },
    )
    return {AttemptKey(row.run, row.epoch) for row in rows}


async def advance(connection: AsyncConnection, progress: Sequence[Progress]) -> set[AttemptKey]:
    """Move runs forward; at most one entry per attempt. `event_seq` 0 tells the state and no more."""
    rows = await connection.execute(
        statement("attempt_progress"),
        {
            "runs": [entry.key.run for entry in progress],
            "epochs": [entry.key.epoch for entry in progress],
            "seqs": [entry.event_seq for entry in progress],
            "states": [int(entry.state) for entry in progress],
            "details": [entry.detail for entry in progress],
            "outcomes": [entry.image_outcome for entry in progress],
            "images": [entry.image_id for entry in progress],
            "prepared": [State.PREPARING in entry.passed for entry in progress],
            "started": [State.RUNNING in entry.passed for entry in progress],
            "active": sorted(ACTIVE),
        },
    )
    return {AttemptKey(row.run, row.epoch) for row in rows}


async def finish(connection: AsyncConnection, results: Sequence[Result]) -> set[AttemptKey]:
    """Commit results; at most one per attempt, and each with a key."""
    keys = [result.key for result in results if result.key is not None]
    rows = await connection.execute(
        statement("attempt_finish"),
        {
            "runs": [key.run for key in keys],
            "epochs": [key.epoch for key in keys],
            "finish_ids": [result.finish_id for result in results],
            "states": [int(result.state) for result in results],
            "outcomes": [result.outcome for result in results],
            "exit_codes": [result.exit_code for result in results],
            "failures": [result.failure for result in results],
            "outputs": [result.outputs for result in results],
            "sources": sorted(transitions.FINISH_SUCCEEDED.sources),
        },
    )
    return {AttemptKey(row.run, row.epoch) for row in rows}


async def finish_ids(
    connection: AsyncConnection, keys: Sequence[AttemptKey]
) -> dict[AttemptKey, UUID | None]:
    """Return the id of each known attempt's committed result, None while there is none."""
    rows = await connection.execute(
        select(attempts.c.run, attempts.c.epoch, attempts.c.finish_id).where(
            tuple_(attempts.c.run, attempts.c.epoch).in_(keys)
        )
    )
    return {AttemptKey(row.run, row.epoch): row.finish_id for row in rows}


@dataclass(frozen=True)
class GivenBack:
    """One attempt that ended without a result."""

    key: AttemptKey
    queue: str
    cancelled: bool
    """Whether the run is CANCELLED now, not QUEUED."""


async def give_back(
    connection: AsyncConnection,
    transition: Transition,
    details: dict[AttemptKey, str],
    *,
    unanswered: bool = False,
) -> list[GivenBack]:
    """End attempts without a result; their runs wait again, or are CANCELLED where that was asked for.

    Args:
        connection: The transaction.
        transition: RETURN or RELEASE (attempts end RELEASED), or REQUEUE_LOST (LOST).
        details: For each attempt, why its run waits again.
        unanswered: Leave leases alone that an agent has taken.
    """
    lost = transition is transitions.REQUEUE_LOST
    outcome = runs_pb2.ATTEMPT_OUTCOME_LOST if lost else runs_pb2.ATTEMPT_OUTCOME_RELEASED
    rows = await connection.execute(
        statement("attempt_give_back"),
        {
            "runs": [key.run for key in details],
            "epochs": [key.epoch for key in details],
            "details": list(details.values()),
            "sources": sorted(transition.sources),
            "target": transition.target,
            "cancelled": transitions.CANCEL_LOST.target,
            "cancel_failure": _CANCELLED_BEFORE_START,
            "outcome": outcome,
            "failure": _NODE_LOST if lost else None,
            "unanswered": unanswered,
        },
    )
    return [GivenBack(AttemptKey(row.run, row.epoch), row.queue, row.cancel_requested) for row in rows]
