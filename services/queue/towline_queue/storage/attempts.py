"""Attempts in PostgreSQL: every function is a compare-and-set on (run, epoch) for a whole batch.

What a batch does not change is stale: over, or in another agent's hands. All of them lock the rows of
`leases` first, in the order of their runs' names.
"""

import random
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final
from uuid import UUID

from towline.v1 import runs_pb2
from towline_queue.core import transitions
from towline_queue.core.endings import CANCELLED, Ending, Past, after_failure, cause_of, lost, no_retry
from towline_queue.core.lease_ids import AttemptKey
from towline_queue.core.leases import Ended
from towline_queue.core.reports import Progress, Result
from towline_queue.core.stops import StopReason
from towline_queue.core.transitions import State, Transition
from towline_queue.storage.database import Database, Transaction

__all__ = ["Lost", "accept", "advance", "finish", "finish_ids", "give_back", "lose", "tell"]

# Once per attempt on the hot path: an attribute of an enum costs more than a name.
_FAILED: Final = State.FAILED
_PREPARING: Final = State.PREPARING
_RUNNING: Final = State.RUNNING


async def accept(database: Database | Transaction, keys: Collection[AttemptKey]) -> set[AttemptKey]:
    """Mark leases as taken by their agents; return those that are current."""
    return await tell(database, keys, ())


async def advance(database: Database | Transaction, progress: Sequence[Progress]) -> set[AttemptKey]:
    """Move attempts forward; at most one entry each. Return those that are current.

    `event_seq` 0 tells the state and no more.
    """
    return await tell(database, (), progress)


async def tell(
    database: Database | Transaction, accepted: Collection[AttemptKey], progress: Sequence[Progress]
) -> set[AttemptKey]:
    """Do what `accept` and `advance` do, in one statement."""
    taken = set(accepted)
    keys = [entry.key for entry in progress]
    # Last, so that they are told of by no more than the columns that have them.
    silent = taken.difference(keys)
    takes = [key in taken for key in keys] + [True] * len(silent)
    keys += silent
    if not keys:
        return set()
    (row,) = await database.rows(
        "attempt_progress",
        **_names(keys),
        accepted=takes,
        seqs=[entry.event_seq for entry in progress],
        states=[entry.state for entry in progress],
        details=_unless_empty([entry.detail for entry in progress]),
        outcomes=_unless_empty([entry.image_outcome for entry in progress]),
        contents=_unless_empty([entry.image_id for entry in progress]),
        facts=_unless_empty([entry.image for entry in progress]),
        prepared=_unless_empty(
            [entry.state is _PREPARING or _PREPARING in entry.passed for entry in progress]
        ),
        started=_unless_empty([entry.state is _RUNNING or _RUNNING in entry.passed for entry in progress]),
    )
    positions = row["positions"] or ()
    return set(keys) if len(positions) == len(keys) else {keys[position - 1] for position in positions}


async def finish(database: Database | Transaction, results: Sequence[Result]) -> list[Ended]:
    """Commit results; at most one per attempt, and each with a key.

    A run whose attempt failed is tried again if its policy says so. Without a failure among the results
    this is one statement; with one it needs a transaction.
    """
    failures = [
        _Failed(result.key, runs_pb2.Failure.FromString(result.failure or b""), cause_of(result))
        for result in results
        if result.state is _FAILED and result.key is not None
    ]
    decided = await _decide(database, failures) if failures else {}
    over = []
    endings = []
    keys = []
    for result in results:
        key = result.key
        ending = decided.get(key) if result.state is _FAILED else no_retry(result)  # type: ignore[arg-type]  # None is in no dict
        if key is not None and ending is not None:
            if result.note:
                ending = replace(ending, detail=" ".join(filter(None, [ending.detail, result.note])))
            keys.append(key)
            over.append(result)
            endings.append(ending)
    return await _end(
        database,
        keys,
        endings,
        outcomes=[result.outcome for result in over],
        failures=_unless_empty([result.failure for result in over]),
        causes=_unless_empty([cause_of(result) for result in over]),
        finish_ids=[result.finish_id for result in over],
        exit_codes=[result.exit_code for result in over],
        outputs=_unless_empty([result.outputs for result in over]),
        results=_unless_empty([result.results for result in over]),
    )


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


async def lose(transaction: Transaction, attempts_lost: Sequence[Lost]) -> list[Ended]:
    """End attempts whose agents are gone or no longer have them; their runs wait again, or have ended."""
    failures = [
        _Failed(entry.key, lost(entry.why), runs_pb2.FAILURE_CAUSE_NODE_LOST, entry.session)
        for entry in attempts_lost
    ]
    decided = await _decide(transaction, failures) if failures else {}
    over = [failed for failed in failures if failed.key in decided]
    return await _end(
        transaction,
        [failed.key for failed in over],
        [decided[failed.key] for failed in over],
        outcomes=[runs_pb2.ATTEMPT_OUTCOME_LOST] * len(over),
        failures=[failed.failure.SerializeToString() for failed in over],
        causes=[failed.cause for failed in over],
        finish_ids=None,
        exit_codes=None,
        outputs=None,
        results=None,
    )


@dataclass(frozen=True)
class _Failed:
    key: AttemptKey
    failure: runs_pb2.Failure
    cause: int
    session: UUID | None = None


async def _decide(database: Database | Transaction, failures: Sequence[_Failed]) -> dict[AttemptKey, Ending]:
    """Lock the leases of those failures that are not stale, and decide what becomes of each."""
    rows = await database.rows(
        "attempt_failed",
        **_names([failed.key for failed in failures]),
        causes=[failed.cause for failed in failures],
        sessions=[failed.session for failed in failures],
        cancelled=StopReason.CANCELLED,
    )
    by_key = {failed.key: failed.failure for failed in failures}
    endings = {}
    for row in rows:
        key = AttemptKey(row["run"], row["epoch"])
        alike = [*zip(row["alike_epochs"], row["alike_agents"], strict=True), (key.epoch, row["agent"])]
        past = Past(row["cancel_requested"], row["retry_policy"], alike)
        endings[key] = after_failure(by_key[key], past, random.random())  # noqa: S311 - jitter
    return endings


async def _end(
    database: Database | Transaction, keys: Sequence[AttemptKey], endings: Sequence[Ending], **columns: Any
) -> list[Ended]:
    """End attempts; `columns` are those of `attempts`, in the order of the keys; None: empty throughout."""
    if not keys:
        return []
    (row,) = await database.rows(
        "attempt_finish",
        **_names(keys),
        **columns,
        states=[ending.move.target for ending in endings],
        details=_unless_empty([ending.detail for ending in endings]),
        run_failures=_unless_empty([ending.failure for ending in endings]),
        delays=[ending.delay for ending in endings],
        queued=State.QUEUED,
        scheduled=State.SCHEDULED,
    )
    return [
        Ended(keys[position - 1], queue, endings[position - 1].move.target)
        for position, queue in zip(row["positions"] or (), row["queues"] or (), strict=True)
    ]


def _names(keys: Iterable[AttemptKey]) -> dict[str, Sequence[Any]]:
    """Return the two columns that keys are."""
    runs, epochs = zip(*keys, strict=True)
    return {"runs": runs, "epochs": epochs}


def _unless_empty(column: Sequence[Any]) -> Sequence[Any] | None:
    """Spare what is empty throughout, as most columns are, on its way and in PostgreSQL."""
    return column if any(column) else None


async def finish_ids(
    database: Database | Transaction, keys: Sequence[AttemptKey]
) -> dict[AttemptKey, UUID | None]:
    """Return the id of the result that each attempt ended with, None where it ended without one.

    An attempt that is not over, or never was, is left out.
    """
    if not keys:
        return {}
    rows = await database.rows("attempt_finish_ids", **_names(keys))
    return {AttemptKey(row["run"], row["epoch"]): row["finish_id"] for row in rows}


async def give_back(
    database: Database | Transaction,
    transition: Transition,
    details: Mapping[AttemptKey, str],
    *,
    unanswered: bool = False,
) -> list[Ended]:
    """End attempts that never began; their runs wait again, or are CANCELLED where that was asked for.

    Args:
        database: The transaction, or the database: it is one statement.
        transition: RETURN or RELEASE.
        details: For each attempt, why its run waits again.
        unanswered: Leave leases alone that an agent has taken.
    """
    if not details:
        return []
    keys = list(details)
    cancelled = transitions.CANCEL_GIVEN_BACK.target
    rows = await database.rows(
        "attempt_give_back",
        **_names(keys),
        details=list(details.values()),
        sources=sorted(transition.sources),
        cancel=StopReason.CANCELLED,
        cancelled=cancelled,
        cancel_failure=CANCELLED,
        outcome=runs_pb2.ATTEMPT_OUTCOME_RELEASED,
        unanswered=unanswered,
    )
    return [
        Ended(keys[row["position"] - 1], row["queue"], cancelled if row["cancelled"] else transition.target)
        for row in rows
    ]
