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
    # A hot loop in Python costs more than the statement, so entries are turned into columns as a whole.
    keys, seqs, states, details, outcomes, contents, facts, passed = _columns(progress, 8)
    taken = set(accepted)
    # Last, so that they are told of by no more than the columns that have them.
    silent = taken.difference(keys)
    takes = [key in taken for key in keys] + [True] * len(silent)
    keys += tuple(silent)
    if not keys:
        return set()
    (row,) = await database.rows(
        "attempt_progress",
        **_names(keys),
        accepted=takes,
        seqs=seqs,
        states=states,
        details=_unless_empty(details),
        outcomes=_unless_empty(outcomes),
        contents=_unless_empty(contents),
        facts=_unless_empty(facts),
        prepared=_unless_empty(_named(_PREPARING, states, passed)),
        started=_unless_empty(_named(_RUNNING, states, passed)),
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
    over: list[Result] = []
    endings: list[Ending] = []
    for result in results:
        ending = decided.get(result.key) if result.state is _FAILED else no_retry(result)  # type: ignore[arg-type]  # None is in no dict
        if ending is not None:
            if result.note:
                ending = replace(ending, detail=" ".join(filter(None, [ending.detail, result.note])))
            over.append(result)
            endings.append(ending)
    keys, finish_ids, _, outcomes, exit_codes, failed, outputs, told, _ = _columns(over, 9)
    return await _end(
        database,
        keys,
        endings,
        outcomes=outcomes,
        failures=_unless_empty(failed),
        causes=_unless_empty([cause_of(result) for result in over]) if any(failed) else None,
        finish_ids=finish_ids,
        exit_codes=exit_codes,
        outputs=_unless_empty(outputs),
        results=_unless_empty(told),
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
    states = [ending.move.target for ending in endings]
    (row,) = await database.rows(
        "attempt_finish",
        **_names(keys),
        **columns,
        states=states,
        details=_unless_empty([ending.detail for ending in endings]),
        run_failures=_unless_empty([ending.failure for ending in endings]),
        delays=_unless_empty([ending.delay for ending in endings]),
        queued=State.QUEUED,
        scheduled=State.SCHEDULED,
    )
    return [
        Ended(keys[position - 1], queue, states[position - 1])
        for position, queue in zip(row["positions"] or (), row["queues"] or (), strict=True)
    ]


def _names(keys: Iterable[AttemptKey]) -> dict[str, Sequence[Any]]:
    """Return the two columns that keys are."""
    runs, epochs = zip(*keys, strict=True)
    return {"runs": runs, "epochs": epochs}


def _columns(entries: Sequence[tuple[Any, ...]], number: int) -> Sequence[tuple[Any, ...]]:
    """Return the columns that entries of `number` fields are."""
    return list(zip(*entries, strict=True)) if entries else [()] * number


def _named(wanted: State, states: Sequence[State], passed: Sequence[Collection[State]]) -> list[bool]:
    """Tell of each entry whether a report that it was made of names a state."""
    return [state is wanted or wanted in others for state, others in zip(states, passed, strict=True)]


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
