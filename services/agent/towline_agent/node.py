"""The node: carries out what the book of leases asks for, and tells it what came of it.

The session tells the book what the queue service says; this module knows of no wire, and decides nothing.
"""

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from towline.v1 import leases_pb2
from towline_agent.attempts import Attempt, Signal
from towline_agent.core.effects import (
    Begin,
    Clean,
    DeadlinesChanged,
    Effect,
    Execute,
    Forget,
    KeepExit,
    KeepFinish,
    KeepGrant,
    KeepStart,
    Kill,
    Permit,
    StopContainer,
)
from towline_agent.core.lease import Key, Lease
from towline_agent.core.leases import LeaseBook
from towline_agent.core.orders import Restored
from towline_agent.core.stops import Exit, StopReason, Window
from towline_agent.deadlines import Deadline, boottime
from towline_agent.engine.health import EngineHealth
from towline_agent.journal import Journal
from towline_agent.keeping_deadlines import DeadlineKeeper
from towline_agent.runner import Runner
from towline_agent.stopping import Stopped, unless

__all__ = ["Node", "Parts"]

_log = logging.getLogger(__name__)
# The loop's clock stands still while the node sleeps, that of leases does not: look at it often.
_LOOK_EVERY_S: Final = 1.0


@dataclass(frozen=True)
class Parts:
    """What a node works with."""

    journal: Journal
    deadlines: DeadlineKeeper
    runner: Runner
    health: EngineHealth


class Node:
    """Attempts of this agent.

    Args:
        book: The leases; what happens to them is decided there.
        parts: What it works with.
        group: Owns the attempts' tasks.
    """

    def __init__(self, book: LeaseBook, parts: Parts, group: asyncio.TaskGroup) -> None:
        self.book = book
        self._parts = parts
        self._group = group
        self._attempts: dict[Key, Attempt] = {}
        self._time = Signal()
        self.changed = Signal()
        """Set when the session may have something to say."""
        self.empty = asyncio.Event()
        """Set when the agent drains and holds nothing any more."""

    def restore(self) -> None:
        """Take up what the journal has."""
        windows = {(one.lease, one.epoch): one for one in self._parts.deadlines.found}
        records = self._parts.journal.records()
        for record in records:
            found = windows.get((record.grant.lease_id, record.grant.epoch))
            kept = Restored(
                grant=record.grant,
                exit=record.exit,
                finish=record.finish,
                window=_window(found) if found else None,
                started_at=record.started_at,
                signalled=record.signalled,
                begun=found is None or found.begun,
            )
            self.apply(self.book.restored(kept, boottime()))
        if records:
            _log.info("found %d runs of an earlier start", len(records))

    async def run(self) -> None:
        """Do what time demands; runs until cancelled."""
        while True:
            said, effects = self.book.intake.generation, self.book.tick(boottime())
            if effects or self.book.intake.generation != said:
                self.apply(effects)
            left = self.book.next_tick() - boottime()
            try:
                async with asyncio.timeout(min(max(left, 0.0), _LOOK_EVERY_S)):
                    await self._time.wait()
            except TimeoutError:
                continue

    def drain(self) -> None:
        """Take no more runs and give back those that have not begun; `empty` when the last has ended."""
        if not self.book.intake.draining:
            _log.info("draining: %d runs to go", len(self.book.leases))
        self.apply(self.book.drain(boottime()))

    def engine_changed(self) -> None:
        """Take note of whether the engine answers."""
        self.book.engine(ready=self._parts.health.ready)
        self.apply(())

    def space_changed(self, lacking: str) -> None:
        """Take note of why the disks have no room for new runs, for people; empty: they have."""
        self.book.intake.space(lacking)
        self.apply(())

    def apply(self, effects: Iterable[Effect]) -> None:
        """Carry out effects; what takes time is done in tasks of the group."""
        for effect in effects:
            self._apply(effect)
        self.changed.set()
        self._time.set()
        if self.book.empty:
            self.empty.set()

    def _apply(self, effect: Effect) -> None:
        match effect:
            case KeepGrant(key, grant):
                self._group.create_task(self._keep_grant(key, grant))
            case Execute(key):
                attempt = self._attempt(key)
                attempt.idle.clear()
                self._group.create_task(self._execute(attempt), name=attempt.spec.run)
            case Permit(key):
                self._parts.deadlines.permit(self._attempt(key))
            case Begin(key):
                self._parts.deadlines.begin(self._attempt(key))
            case StopContainer(key, stop):
                _log.info("%s (epoch %d) is to stop: %s", self._run(key), key[1], stop.reason.word)
                self._attempt(key).order_stop()
            case Kill(key):
                self._attempt(key).killing.set()
            case KeepStart(key, at):
                self._group.create_task(self._keep_start(self._attempt(key), at))
            case KeepExit(key, exit):
                self._group.create_task(self._keep_exit(self._attempt(key), exit))
            case KeepFinish(key, finish):
                self._group.create_task(self._keep_finish(key, finish))
            case Clean(key, grace):
                self._group.create_task(self._clean(self._attempt(key), grace))
            case Forget(key, grant):
                self._attempts.pop(key, None)
                self._group.create_task(asyncio.to_thread(self._parts.journal.forget, grant))
            case DeadlinesChanged():
                self._parts.deadlines.changed()

    def _lease(self, key: Key) -> Lease:
        lease = self.book.find(key)
        assert lease is not None  # noqa: S101 - effects name leases that the book has, but for Forget
        return lease

    def _run(self, key: Key) -> str:
        return self._lease(key).spec.run

    def _attempt(self, key: Key) -> Attempt:
        if key not in self._attempts:
            self._attempts[key] = Attempt(self._lease(key), self.book, self.apply)
        return self._attempts[key]

    async def _keep_grant(self, key: Key, grant: leases_pb2.Grant) -> None:
        try:
            await asyncio.to_thread(self._parts.journal.granted, grant)
        except OSError as error:
            _log.error("%s is refused: the data folder cannot be written: %s", grant.spec.run, error)
            self.apply(self.book.grant_not_kept(key, str(error), boottime()))
        else:
            _log.info("%s: attempt %d, epoch %d", grant.spec.run, grant.attempt, grant.epoch)
            self.apply(self.book.grant_kept(key, boottime()))

    async def _execute(self, attempt: Attempt) -> None:
        result = await unless(attempt.dropped, self._parts.runner.execute(attempt))
        attempt.idle.set()
        if not isinstance(result, Stopped):
            _log.info("%s: %s", attempt.spec.run, result.failure.message or "succeeded")
            self.apply(self.book.ended(attempt.lease.key, result))

    async def _keep_start(self, attempt: Attempt, at: float) -> None:
        try:
            await asyncio.to_thread(self._parts.journal.started, attempt.grant, at)
        except OSError as error:
            _log.warning("the start of %s is not noted: %s", attempt.spec.run, error)

    async def _keep_exit(self, attempt: Attempt, exit: Exit) -> None:
        try:
            await asyncio.to_thread(self._parts.journal.exited, attempt.grant, exit)
        except OSError as error:
            _log.warning("how %s ended is in memory only: %s", attempt.spec.run, error)
        attempt.exit_kept.set()

    async def _keep_finish(self, key: Key, finish: leases_pb2.Finish) -> None:
        lease = self.book.find(key)
        if lease is None:
            return
        try:
            await asyncio.to_thread(self._parts.journal.finished, lease.grant, finish)
        except OSError as error:
            _log.error("the result of %s is in memory only: %s", lease.spec.run, error)
            self.apply(self.book.finish_not_kept(key, boottime()))
        else:
            self.apply(self.book.finish_kept(key))

    async def _clean(self, attempt: Attempt, grace: timedelta | None) -> None:
        if grace is not None:
            _log.warning("%s (epoch %d) is no longer ours", attempt.spec.run, attempt.grant.epoch)
        attempt.dropped.set()
        await attempt.idle.wait()
        await self._parts.runner.remove(attempt, grace)
        self._parts.runner.forget(attempt)
        self.apply(self.book.removed(attempt.lease.key))


def _window(deadline: Deadline) -> Window:
    return Window(deadline.stop_at, deadline.kill_at, StopReason.from_word(deadline.reason))
