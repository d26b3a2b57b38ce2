"""What sessions ask of the store, in transactions that many of them share; wakes whom it concerns."""

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import Final, assert_never

from towline.errors import ResourceExhausted, TowlineError, Unavailable
from towline_queue.core import session_events as on
from towline_queue.core.leases import Ended, Opened, Opening, Reconciled, Renewal, SessionKey
from towline_queue.core.reports import FinishVerdict, Report, ReportAnswer, SaidBy
from towline_queue.core.session_events import StoreAnswer, StoreCall
from towline_queue.core.transitions import State
from towline_queue.group_commit import GroupCommit
from towline_queue.signals import Signals
from towline_queue.store import LeaseStore

__all__ = ["SessionDesk", "announce"]

_log = logging.getLogger(__name__)
_OPENINGS: Final = 64
# While PostgreSQL commits reports of some sessions, those of others are on their way. A session has but one
# under way, so its own stay in order; where two are about one attempt, they take turns at its lease.
_REPORTS_AT_ONCE: Final = 2
# Sessions bound themselves: each has one call under way. These two come from whoever connects.
_MOST_NEWCOMERS: Final = 4096
_MOST_OUTSIDERS: Final = 64


# What they do at once must not hold others up.
_MOST_TOGETHER: Final = 64


class _Crowd:
    """Sessions whose calls are to be one."""

    def __init__(self) -> None:
        self.size = 0
        self.over = asyncio.Event()


class _Places:
    """A bound on what is under way at once."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._taken = 0

    @contextmanager
    def place(self, what: str) -> Iterator[None]:
        """Take a place for as long as the block runs; ResourceExhausted/OVERLOADED if there is none."""
        if self._taken >= self._most:
            wait = timedelta(seconds=1 + random.random())  # noqa: S311 - jitter
            raise ResourceExhausted(
                f"{self._taken} {what} already; come back later", reason="OVERLOADED", retry_after=wait
            )
        self._taken += 1
        try:
            yield
        finally:
            self._taken -= 1


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
        self._openings = GroupCommit[Opening, Opened | TowlineError](self._open_all, most=_OPENINGS)
        self._renewals = {
            look: GroupCommit[SessionKey, Renewal | None](partial(store.renew, look=look))
            for look in (True, False)
        }
        self._newcomers = _Places(_MOST_NEWCOMERS)
        self._outsiders = _Places(_MOST_OUTSIDERS)
        self._crowd: _Crowd | None = None
        """Those whose calls wait for each other now."""
        self.dropped: Counter[str] = Counter()
        """How many reports were dropped because their epoch was stale, by kind."""

    async def run(self) -> None:
        """Carry out openings, reports and renewals until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._openings.run(), name="openings")
            for _ in range(_REPORTS_AT_ONCE):
                group.create_task(self._reports.run(), name="reports")
            for look, renewals in self._renewals.items():
                group.create_task(renewals.run(), name="renewals and leases" if look else "renewals")

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
                return on.Reported(await self._reports.submit(SaidBy(agent, report)))
            case on.Renew(session, look, within):
                if within:
                    await self._wait_for_others(within)
                return on.Renewed(await self._renewals[look].submit(session))
            case on.Open(opening):
                return await self._open(opening)
            case on.Settle(session, inventory):
                reconciled = await self._store.settle(session, inventory)
                if reconciled is not None:
                    self._announce_settled(reconciled)
                return on.Settled(reconciled)
            case on.Drain() | on.Withhold() | on.Leave():
                return await self._note(call)
            case _:
                assert_never(call)

    async def _note(self, call: on.Drain | on.Withhold | on.Leave) -> StoreAnswer:
        match call:
            case on.Drain(session):
                await self._store.drain(session)
                return on.Drained()
            case on.Withhold(session, why):
                await self._store.withhold(session, why)
                return on.Withheld()
            case on.Leave(session):
                await self._store.leave(session)
                return on.Left()
            case _:
                assert_never(call)

    async def _open(self, opening: Opening) -> StoreAnswer:
        with self._newcomers.place("agents are connecting"):
            opened = await self._openings.submit(opening)
        if isinstance(opened, TowlineError):
            return on.Failed(opened)
        self._announce_settled(opened.reconciled)
        return on.Opened(opened)

    async def _wait_for_others(self, within: timedelta) -> None:
        """Wait for others that may wait too, so that their calls are one."""
        crowd = self._crowd
        if crowd is None:
            crowd = self._crowd = _Crowd()
            asyncio.get_running_loop().call_later(within.total_seconds(), self._let_go, crowd)
        crowd.size += 1
        if crowd.size >= _MOST_TOGETHER:
            self._let_go(crowd)
        await crowd.over.wait()

    def _let_go(self, crowd: _Crowd) -> None:
        crowd.over.set()
        if self._crowd is crowd:
            self._crowd = None

    async def report_from_outside(self, report: Report) -> ReportAnswer:
        """Carry out what comes without a session; ResourceExhausted/OVERLOADED if too much does at once."""
        with self._outsiders.place("results are being committed"):
            return await self._reports.submit(SaidBy("an agent", report))

    async def _open_all(self, openings: Sequence[Opening]) -> Sequence[Opened | TowlineError]:
        """Open sessions in one transaction; in an outage all are refused, and their agents come again."""
        try:
            return await self._store.open_sessions(openings)
        except Unavailable as error:
            return [Unavailable(error.message, reason=error.reason) for _ in openings]

    async def _commit_reports(self, items: Sequence[SaidBy]) -> Sequence[ReportAnswer]:
        carried_out = await self._store.carry_out(items)
        self._signals.runs_changed(carried_out.advanced)
        announce(self._signals, carried_out.ended)
        for answer in carried_out.answers:
            self._count(answer)
        return carried_out.answers

    def _announce_settled(self, reconciled: Reconciled) -> None:
        self._signals.runs_changed([key.run for key in reconciled.outcome.adopted])
        announce(self._signals, reconciled.ended)

    def _count(self, answer: ReportAnswer) -> None:
        for kind, stale in (
            ("report", len(answer.stale)),
            ("result", sum(verdict is FinishVerdict.STALE_EPOCH for _, verdict in answer.results)),
        ):
            if stale:
                self.dropped[kind] += stale
                _log.info("dropped %d stale %ss", stale, kind, extra={"stale": sorted(answer.stale)})


def announce(signals: Signals, ended: Sequence[Ended]) -> None:
    """Wake whom it concerns that attempts are over, after the commit."""
    signals.runs_changed([attempt.key.run for attempt in ended])
    for queue in {attempt.queue for attempt in ended if attempt.state is State.QUEUED}:
        signals.queue_ready(queue)
