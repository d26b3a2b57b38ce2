"""Does what time demands: sessions that expired, grants without an answer, schedules that are due.

Any number of replicas may sweep at once: every statement locks what it changes and checks it under the lock.
"""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Final, TypeVar

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from towline.errors import TowlineError
from towline.service.postgres import transaction
from towline_queue.core.health import Health
from towline_queue.session_desk import announce_given_back
from towline_queue.signals import Signals
from towline_queue.storage import upkeep

__all__ = ["Reaper"]

_log = logging.getLogger(__name__)
_Found = TypeVar("_Found")

# Replicas take turns by this lock, to spare the database; nothing depends on it.
_TURN: Final = "towline.queue.upkeep"
_TIDY_EVERY: Final = timedelta(minutes=10)


class Reaper:
    """Sweeps the database at an interval.

    Args:
        engine: The database.
        signals: Hears what it changed.
        every: Time between sweeps.
        reply_within: How long an agent may take to answer a grant.
    """

    def __init__(
        self, engine: AsyncEngine, signals: Signals, *, every: timedelta, reply_within: timedelta
    ) -> None:
        self._engine = engine
        self._signals = signals
        self._every = every
        self._reply_within = reply_within
        self._health = Health(stall=max(10 * every, timedelta(seconds=5)))
        self._tidied = time.monotonic()

    async def run(self) -> None:
        """Sweep until cancelled."""
        while True:
            try:
                await self.sweep()
            except TowlineError as error:
                self._health.failed()
                _log.warning("upkeep failed, trying again: %s", error.message)
            except Exception:
                # A deadlock or one bad row must not end the service that runs depend on.
                _log.exception("upkeep failed, trying again")
            await asyncio.sleep(self._every.total_seconds() * (0.75 + random.random() / 2))  # noqa: S311 - jitter

    async def sweep(self) -> None:
        """Do all that is due now."""
        healthy_for = self._health.seen_at(time.monotonic())
        lost = await self._in_turn(lambda connection: upkeep.take_back_lost(connection, healthy_for)) or []
        for ended in lost:
            _log.warning("%s was lost with its agent (epoch %d)", *ended.key)
        announce_given_back(self._signals, lost)
        unanswered = await self._in_turn(
            lambda connection: upkeep.take_back_unanswered(connection, self._reply_within)
        )
        announce_given_back(self._signals, unanswered or [])
        for run, queue in await self._in_turn(upkeep.promote) or []:
            self._signals.run_changed(run)
            self._signals.queue_ready(queue)
        if time.monotonic() - self._tidied > _TIDY_EVERY.total_seconds():
            await self._tidy()

    async def _tidy(self) -> None:
        await self._in_turn(upkeep.forget_sessions)
        while await self._in_turn(upkeep.forget_requests):
            pass
        self._tidied = time.monotonic()

    async def _in_turn(self, work: Callable[[AsyncConnection], Awaitable[_Found]]) -> _Found | None:
        """Do some work in its own transaction; None if another replica is at it."""
        async with transaction(self._engine) as connection:
            turn = select(func.pg_try_advisory_xact_lock(func.hashtextextended(_TURN, 0)))
            if not (await connection.execute(turn)).scalar_one():
                return None
            return await work(connection)
