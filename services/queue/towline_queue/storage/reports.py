"""Reports of many agents, carried out together: answers, progress, results, leases given back."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID

from towline_queue.core import transitions
from towline_queue.core.lease_ids import AttemptKey
from towline_queue.core.leases import CarriedOut, Ended
from towline_queue.core.reports import (
    FinishVerdict,
    Progress,
    Report,
    ReportAnswer,
    Result,
    SaidBy,
    fold_progress,
)
from towline_queue.core.transitions import State
from towline_queue.storage import attempts
from towline_queue.storage.database import Database, Transaction

__all__ = ["carry_out"]


@dataclass
class _Batch:
    """What many reports say, by kind; each attempt at most once in each."""

    accepted: set[AttemptKey] = field(default_factory=set)
    progress: list[Progress] = field(default_factory=list)
    results: dict[AttemptKey, Result] = field(default_factory=dict)
    refused: dict[AttemptKey, str] = field(default_factory=dict)
    released: dict[AttemptKey, str] = field(default_factory=dict)

    @property
    def is_one_statement(self) -> bool:
        """Whether one statement writes all of it: results are two if a failure has to be decided on."""
        parts = (self.accepted or self.progress, self.results, self.refused, self.released)
        return sum(map(bool, parts)) <= 1 and all(
            result.state is not State.FAILED for result in self.results.values()
        )


@dataclass
class _Applied:
    """Attempts that statements matched; what is missing was stale."""

    current: set[AttemptKey] = field(default_factory=set)
    committed: dict[AttemptKey, UUID | None] = field(default_factory=dict)
    finished_now: list[Ended] = field(default_factory=list)
    given_back: list[Ended] = field(default_factory=list)


async def carry_out(database: Database, said: Sequence[SaidBy]) -> CarriedOut:
    """Carry out reports in the order of their fields, in one transaction; what is stale changes nothing."""
    batch = _gather(said)
    if batch.is_one_statement:
        applied = await _apply(database, batch)
    else:
        async with database.transaction() as transaction:
            applied = await _apply(transaction, batch)
    gone = {key for key, _, _ in applied.given_back}
    # In order, so that of two results with one key the first is the committed one.
    fresh = {key for key, _, _ in applied.finished_now}
    return CarriedOut(
        answers=[_answer(item.report, applied, gone, fresh) for item in said],
        advanced=frozenset([one.key.run for one in batch.progress if one.key in applied.current]),
        ended=[*applied.finished_now, *applied.given_back],
    )


def _gather(said: Sequence[SaidBy]) -> _Batch:
    batch = _Batch()
    progress: list[Progress] = []
    for item in said:
        report = item.report
        for key, accepted, reason in report.replies:
            if accepted:
                batch.accepted.add(key)
            else:
                batch.refused[key] = f"{item.agent} refused it: {reason or 'no reason given'}"
        progress += report.progress
        for result in report.results:
            if result.key is not None:
                batch.results.setdefault(result.key, result)
        for entry in report.returned:
            batch.released[entry.key] = f"{item.agent} gave it back: {entry.reason or 'no reason given'}"
    batch.progress = fold_progress(progress)
    return batch


async def _apply(database: Database | Transaction, batch: _Batch) -> _Applied:
    applied = _Applied()
    if batch.accepted or batch.progress:
        applied.current = await attempts.tell(database, batch.accepted, batch.progress)
    if batch.results:
        applied.finished_now = await attempts.finish(database, list(batch.results.values()))
        applied.committed = {key: batch.results[key].finish_id for key, _, _ in applied.finished_now}
        if len(applied.committed) < len(batch.results):
            missed = [key for key in batch.results if key not in applied.committed]
            # What is over stays as it is, so that this may be read after a commit.
            applied.committed |= await attempts.finish_ids(database, missed)
    if batch.refused:
        applied.given_back += await attempts.give_back(database, transitions.RETURN, batch.refused)
    if batch.released:
        applied.given_back += await attempts.give_back(database, transitions.RELEASE, batch.released)
    return applied


def _answer(report: Report, applied: _Applied, gone: set[AttemptKey], fresh: set[AttemptKey]) -> ReportAnswer:
    results = [(result.finish_id, _verdict(result, applied.committed, fresh)) for result in report.results]
    stale = {key for key, accepted, _ in report.replies if accepted}
    stale.update([entry.key for entry in report.progress])
    stale -= applied.current
    ended = {result.key for result in report.results if result.key in applied.committed}
    if gone:
        ended.update(reply.key for reply in report.replies if reply.key in gone)
        ended.update(entry.key for entry in report.returned if entry.key in gone)
    return ReportAnswer(results, stale, ended)


def _verdict(
    result: Result, committed: dict[AttemptKey, UUID | None], fresh: set[AttemptKey]
) -> FinishVerdict:
    if result.key is None or committed.get(result.key) != result.finish_id:
        return FinishVerdict.STALE_EPOCH
    if result.key in fresh:
        fresh.discard(result.key)
        return FinishVerdict.OK
    return FinishVerdict.DUPLICATE
