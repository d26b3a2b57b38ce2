"""What sessions ask of the store, in transactions that many of them share; wakes whom it concerns."""

import asyncio
import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import assert_never

from towline.errors import TowlineError
from towline_queue.core import session_events as on
from towline_queue.core.leases import Ended, Reconciled, Renewal, SessionKey
from towline_queue.core.reports import FinishVerdict, Report, ReportAnswer, SaidBy
from towline_queue.core.session_events import StoreAnswer, StoreCall
from towline_queue.core.transitions import State
from towline_queue.group_commit import GroupCommit
from towline_queue.signals import Signals
from towline_queue.store import LeaseStore

__all__ = ["SessionDesk", "announce"]

_log = logging.getLogger(__name__)


class SessionDesk:
    """Carries out sessions' calls to the store.

    Args:
        store: The database.
        signals: Gets what changed, after the commit.
    """

    def __init__(self, store: LeaseStore, signals: Signals) -> None:
        self._store = store
        self._signals = signals
        self._reports = GroupCommit[SaidBy, ReportAnswer](self._commit_reports)
        self._renewals = GroupCommit[SessionKey, Renewal | None](store.renew)
        self.dropped: Counter[str] = Counter()
        """How many reports were dropped because their epoch was stale, by kind."""

    async def run(self) -> None:
        """Carry out reports and renewals until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._reports.run(), name="reports")
            group.create_task(self._renewals.run(), name="renewals")

    async def call(self, call: StoreCall) -> StoreAnswer:
        """Carry out one call and return its answer after the commit; an error is an answer too.

        Reports and renewals wait through an outage, so that nothing said is lost on the way.
        """
        try:
            return await self._call(call)
        except TowlineError as error:
            return on.Failed(error)

    async def _call(self, call: StoreCall) -> StoreAnswer:
        match call:
            case on.Commit(agent, report):
                return on.Reported(await self.report(agent, report))
            case on.Renew(session):
                return on.Renewed(await self._renewals.submit(session))
            case on.Open(session_id, newcomer, queues, entries):
                opened = await self._store.open_session(session_id, newcomer, queues, entries)
                self._announce_settled(opened.reconciled)
                return on.Opened(opened)
            case on.Settle(session, inventory):
                reconciled = await self._store.settle(session, inventory)
                if reconciled is not None:
                    self._announce_settled(reconciled)
                return on.Settled(reconciled)
            case on.Drain(session):
                await self._store.drain(session)
                return on.Drained()
            case on.Leave(session):
                await self._store.leave(session)
                return on.Left()
            case _:
                assert_never(call)

    async def report(self, agent: str, report: Report) -> ReportAnswer:
        """Carry out what an agent reports, in a transaction shared with others. Waits through an outage."""
        return await self._reports.submit(SaidBy(agent, report))

    async def _commit_reports(self, items: Sequence[SaidBy]) -> Sequence[ReportAnswer]:
        carried_out = await self._store.carry_out(items)
        for run in carried_out.advanced:
            self._signals.run_changed(run)
        announce(self._signals, carried_out.ended)
        for answer in carried_out.answers:
            self._count(answer)
        return carried_out.answers

    def _announce_settled(self, reconciled: Reconciled) -> None:
        for key in reconciled.outcome.adopted:
            self._signals.run_changed(key.run)
        announce(self._signals, reconciled.ended)

    def _count(self, answer: ReportAnswer) -> None:
        for kind, stale in (
            ("report", len(answer.stale)),
            ("result", sum(verdict is FinishVerdict.STALE_EPOCH for _, verdict in answer.results)),
        ):
            if stale:
                self.dropped[kind] += stale
                _log.info("dropped %d stale %ss", stale, kind, extra={"stale": sorted(answer.stale)})


def announce(signals: Signals, ended: Iterable[Ended]) -> None:
    """Wake whom it concerns that attempts are over, after the commit."""
    for attempt in ended:
        signals.run_changed(attempt.key.run)
        if attempt.state is State.QUEUED:
            signals.queue_ready(attempt.queue)
