"""Does what time demands: lost leases, unanswered grants, schedules and retries, overdue waits and drains.

One replica leads at a time, to spare the database; nothing depends on it: every statement locks what it
changes and checks it under the lock.
"""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final
from uuid import uuid4

from towline.errors import TowlineError
from towline_queue.core.health import Health
from towline_queue.session_desk import announce
from towline_queue.signals import Signals
from towline_queue.store import LeaseStore

__all__ = ["Reaper", "UpkeepTimes"]

_log = logging.getLogger(__name__)

_LEAD: Final = "upkeep"
_TIDY_EVERY: Final = timedelta(minutes=10)


@dataclass(frozen=True)
class UpkeepTimes:
    """How long things may take.

    Attributes:
        every: Time between sweeps.
        reply_within: How long an agent may take to answer a grant.
        keep_attempts: How long the attempts of a month are kept once it is over; None: for ever.
    """

    every: timedelta
    reply_within: timedelta
    keep_attempts: timedelta | None = None


class Reaper:
    """Sweeps the database at an interval, while this replica leads.

    Args:
        store: The database.
        signals: Hears what it changed.
        times: Of the service's settings.
        clock: Seconds by a clock that does not jump.
    """

    def __init__(
        self,
        store: LeaseStore,
        signals: Signals,
        times: UpkeepTimes,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._signals = signals
        self._times = times
        self._clock = clock
        self._holder = uuid4()
        self._term = max(10 * times.every, timedelta(seconds=1))
        self._health = Health(stall=max(10 * times.every, timedelta(seconds=5)))
        self._tidied: float | None = None

    async def run(self) -> None:
        """Sweep until cancelled."""
        while True:
            try:
                await self.sweep()
            except TowlineError as error:
                self._health.failed()
                _log.warning("upkeep failed, trying again: %s", error.message)
            except Exception:
                # A deadlock must not end the service that runs depend on.
                _log.exception("upkeep failed, trying again")
            await asyncio.sleep(self._times.every.total_seconds() * (0.75 + random.random() / 2))  # noqa: S311 - jitter

    async def sweep(self) -> None:
        """Do all that is due now, if this replica leads; observe the health of the database in any case."""
        leads = await self._store.lead(_LEAD, self._holder, self._term)
        healthy_for = self._health.seen_at(self._clock())
        if not leads:
            return
        await self._part(lambda: self._take_back_lost(healthy_for))
        for part in (
            self._take_back_unanswered,
            self._promote,
            self._expire_waiting,
            self._preempt_overdue_drains,
        ):
            await self._part(part)
        # At once too: who was down for long may lack the partition of this month.
        if self._tidied is None or self._clock() - self._tidied > _TIDY_EVERY.total_seconds():
            await self._part(self._tidy)

    async def _part(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except TowlineError:
            raise
        except Exception:
            # One bad row must not keep the other parts from being done.
            _log.exception("a part of the upkeep failed")

    async def _take_back_lost(self, healthy_for: timedelta) -> None:
        lost = await self._store.take_back_lost(healthy_for)
        for ended in lost:
            _log.warning("%s was lost with its agent (epoch %d)", *ended.key)
        announce(self._signals, lost)

    async def _take_back_unanswered(self) -> None:
        announce(self._signals, await self._store.take_back_unanswered(self._times.reply_within))

    async def _promote(self) -> None:
        for ready in await self._store.promote():
            self._signals.run_changed(ready.run)
            self._signals.queue_ready(ready.queue)

    async def _expire_waiting(self) -> None:
        for run in await self._store.expire_waiting():
            self._signals.run_changed(run)

    async def _preempt_overdue_drains(self) -> None:
        for run in await self._store.preempt_overdue_drains():
            self._signals.run_changed(run)
            self._signals.stop_requested(run)

    async def _tidy(self) -> None:
        await self._store.forget_sessions()
        while await self._store.forget_requests():
            pass
        if not await self._store.keep_attempts(self._times.keep_attempts):
            _log.info("the attempts of old months are in use, and are dropped later")
        self._tidied = self._clock()
