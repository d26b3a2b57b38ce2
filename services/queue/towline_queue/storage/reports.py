"""Reports of many agents, carried out in one transaction: answers, progress, results, leases given back."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from towline_queue.core import transitions
from towline_queue.core.lease_ids import AttemptKey
from towline_queue.core.leases import CarriedOut, Ended
from towline_queue.core.reports import (
    FinishVerdict,
    Report,
    ReportAnswer,
    Result,
    SaidBy,
    fold_progress,
)
from towline_queue.storage import attempts

__all__ = ["carry_out"]

_Entry = TypeVar("_Entry")


@dataclass
class _Applied:
    """Attempts that statements matched; what is missing was stale."""

    accepted: set[AttemptKey] = field(default_factory=set)
    advanced: set[AttemptKey] = field(default_factory=set)
    committed: dict[AttemptKey, UUID | None] = field(default_factory=dict)
    finished_now: list[Ended] = field(default_factory=list)
    given_back: list[Ended] = field(default_factory=list)


async def carry_out(connection: AsyncConnection, said: Sequence[SaidBy]) -> CarriedOut:
    """Carry out reports in the order of their fields; what names a stale epoch changes nothing."""
    applied = _Applied()
    accepted = [reply.key for reply in _all(said, lambda report: report.replies) if reply.accepted]
    if accepted:
        applied.accepted = await attempts.accept(connection, accepted)
    progress = fold_progress(_all(said, lambda report: report.progress))
    if progress:
        applied.advanced = await attempts.advance(connection, progress)
    await _finish(connection, list(_all(said, lambda report: report.results)), applied)
    await _give_back(connection, said, applied)
    gone = {ended.key for ended in applied.given_back}
    # In order, so that of two results with one key the first is the committed one.
    fresh = {ended.key for ended in applied.finished_now}
    return CarriedOut(
        answers=[_answer(item.report, applied, gone, fresh) for item in said],
        advanced=frozenset(key.run for key in applied.advanced),
        ended=[*applied.finished_now, *applied.given_back],
    )


def _all(said: Sequence[SaidBy], part: Callable[[Report], Sequence[_Entry]]) -> Iterable[_Entry]:
    return (entry for item in said for entry in part(item.report))


async def _finish(connection: AsyncConnection, results: Sequence[Result], applied: _Applied) -> None:
    first: dict[AttemptKey, Result] = {}
    for result in results:
        if result.key is not None:
            first.setdefault(result.key, result)
    if not first:
        return
    applied.finished_now = await attempts.finish(connection, list(first.values()))
    applied.committed = {ended.key: first[ended.key].finish_id for ended in applied.finished_now}
    missed = [key for key in first if key not in applied.committed]
    if missed:
        applied.committed |= await attempts.finish_ids(connection, missed)


async def _give_back(connection: AsyncConnection, said: Sequence[SaidBy], applied: _Applied) -> None:
    refused = {
        reply.key: f"{item.agent} refused it: {reply.reason or 'no reason given'}"
        for item in said
        for reply in item.report.replies
        if not reply.accepted
    }
    if refused:
        applied.given_back += await attempts.give_back(connection, transitions.RETURN, refused)
    released = {
        entry.key: f"{item.agent} gave it back: {entry.reason or 'no reason given'}"
        for item in said
        for entry in item.report.returned
    }
    if released:
        applied.given_back += await attempts.give_back(connection, transitions.RELEASE, released)


def _answer(report: Report, applied: _Applied, gone: set[AttemptKey], fresh: set[AttemptKey]) -> ReportAnswer:
    results = [(result.finish_id, _verdict(result, applied.committed, fresh)) for result in report.results]
    stale = {
        *(reply.key for reply in report.replies if reply.accepted and reply.key not in applied.accepted),
        *(entry.key for entry in report.progress if entry.key not in applied.advanced),
    }
    ended = {
        *(reply.key for reply in report.replies if reply.key in gone),
        *(entry.key for entry in report.returned if entry.key in gone),
        *(result.key for result in report.results if result.key in applied.committed),
    }
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
