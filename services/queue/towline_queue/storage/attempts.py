"""Attempts in PostgreSQL: every function is a compare-and-set on (run, epoch) for a whole batch.

What a batch does not change is stale: over, or in another agent's hands. All of them lock the rows of
`runs` first, in the order of their names.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Row, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from towline.v1 import runs_pb2
from towline_queue.core import transitions
from towline_queue.core.endings import CANCELLED, Ending, Past, after_failure, cause_of, lost, no_retry
from towline_queue.core.lease_ids import AttemptKey
from towline_queue.core.leases import Ended
from towline_queue.core.reports import Progress, Result
from towline_queue.core.transitions import ACTIVE, State, Transition
from towline_queue.storage.statements import statement
from towline_queue.storage.tables import attempts

__all__ = ["Lost", "accept", "advance", "finish", "finish_ids", "give_back", "lose"]

_MOVES = [(source, move.target) for move in transitions.PROGRESS for source in move.sources]


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
            "froms": [source for source, _ in _MOVES],
            "tos": [target for _, target in _MOVES],
        },
    )
    return {AttemptKey(row.run, row.epoch) for row in rows}


async def finish(connection: AsyncConnection, results: Sequence[Result]) -> list[Ended]:
    """Commit results; at most one per attempt, and each with a key.

    A run whose attempt failed is tried again if its policy says so. Without a failure among the results
    this is one statement.
    """
    given = {result.key: result for result in results if result.key is not None}
    failures = [
        _Failed(key, runs_pb2.Failure.FromString(result.failure or b""), cause_of(result))
        for key, result in given.items()
        if result.state is State.FAILED
    ]
    endings = {key: no_retry(result) for key, result in given.items() if result.state is not State.FAILED}
    if failures:
        endings |= await _decide(connection, failures)
    over = [
        _Over(
            key=key,
            ending=endings[key],
            outcome=result.outcome,
            failure=result.failure,
            cause=cause_of(result),
            finish_id=result.finish_id,
            exit_code=result.exit_code,
            outputs=result.outputs,
        )
        for key, result in given.items()
        if key in endings
    ]
    return await _end(connection, over)


@dataclass(frozen=True)
class Lost:
    """An attempt that is lost with its agent.

    Attributes:
        key: The attempt.
        why: For people.
        session: It counts only while the lease is this session's; None: whosever it is.
    """

    key: AttemptKey
    why: str
    session: UUID | None = None


async def lose(connection: AsyncConnection, attempts_lost: Sequence[Lost]) -> list[Ended]:
    """End attempts whose agents are gone or no longer have them; their runs wait again, or have ended."""
    failures = [
        _Failed(entry.key, lost(entry.why), runs_pb2.FAILURE_CAUSE_NODE_LOST, entry.session)
        for entry in attempts_lost
    ]
    endings = await _decide(connection, failures)
    over = [
        _Over(
            key=failed.key,
            ending=endings[failed.key],
            outcome=runs_pb2.ATTEMPT_OUTCOME_LOST,
            failure=failed.failure.SerializeToString(),
            cause=failed.cause,
        )
        for failed in failures
        if failed.key in endings
    ]
    return await _end(connection, over)


@dataclass(frozen=True)
class _Failed:
    key: AttemptKey
    failure: runs_pb2.Failure
    cause: int
    session: UUID | None = None


@dataclass(frozen=True)
class _Over:
    """How an attempt ended, for its row, and what becomes of its run."""

    key: AttemptKey
    ending: Ending
    outcome: int
    failure: bytes | None
    cause: int
    finish_id: UUID | None = None
    exit_code: int | None = None
    outputs: str = ""


async def _decide(connection: AsyncConnection, failures: Sequence[_Failed]) -> dict[AttemptKey, Ending]:
    """Lock the runs of those failures that are not stale, and decide what becomes of each."""
    rows = await connection.execute(
        statement("attempt_failed"),
        {
            "runs": [failed.key.run for failed in failures],
            "epochs": [failed.key.epoch for failed in failures],
            "causes": [failed.cause for failed in failures],
            "sessions": [failed.session for failed in failures],
            "sources": sorted(ACTIVE),
        },
    )
    by_key = {failed.key: failed.failure for failed in failures}
    endings = {}
    for row in rows:
        key = AttemptKey(row.run, row.epoch)
        alike = [*zip(row.alike_epochs, row.alike_agents, strict=True), (row.epoch, row.agent)]
        past = Past(row.cancel_requested, row.retry_policy, alike)
        endings[key] = after_failure(by_key[key], past, random.random())  # noqa: S311 - jitter
    return endings


async def _end(connection: AsyncConnection, over: Sequence[_Over]) -> list[Ended]:
    if not over:
        return []
    rows = await connection.execute(
        statement("attempt_finish"),
        {
            "runs": [entry.key.run for entry in over],
            "epochs": [entry.key.epoch for entry in over],
            "finish_ids": [entry.finish_id for entry in over],
            "outcomes": [entry.outcome for entry in over],
            "exit_codes": [entry.exit_code for entry in over],
            "failures": [entry.failure for entry in over],
            "causes": [entry.cause for entry in over],
            "outputs": [entry.outputs for entry in over],
            "states": [entry.ending.move.target for entry in over],
            "details": [entry.ending.detail for entry in over],
            "run_failures": [entry.ending.failure for entry in over],
            "delays": [entry.ending.delay for entry in over],
            "sources": sorted(frozenset.intersection(*(entry.ending.move.sources for entry in over))),
            "queued": State.QUEUED,
            "scheduled": State.SCHEDULED,
        },
    )
    return [_ended(row) for row in rows]


def _ended(row: Row[Any]) -> Ended:
    return Ended(AttemptKey(row.run, row.epoch), row.queue, State(row.state))


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


async def give_back(
    connection: AsyncConnection,
    transition: Transition,
    details: Mapping[AttemptKey, str],
    *,
    unanswered: bool = False,
) -> list[Ended]:
    """End attempts that never began; their runs wait again, or are CANCELLED where that was asked for.

    Args:
        connection: The transaction.
        transition: RETURN or RELEASE.
        details: For each attempt, why its run waits again.
        unanswered: Leave leases alone that an agent has taken.
    """
    rows = await connection.execute(
        statement("attempt_give_back"),
        {
            "runs": [key.run for key in details],
            "epochs": [key.epoch for key in details],
            "details": list(details.values()),
            "sources": sorted(transition.sources),
            "target": transition.target,
            "cancelled": transitions.CANCEL_GIVEN_BACK.target,
            "cancel_failure": CANCELLED,
            "outcome": runs_pb2.ATTEMPT_OUTCOME_RELEASED,
            "unanswered": unanswered,
        },
    )
    return [_ended(row) for row in rows]
