"""Hands waiting runs to this process's sessions as soon as both are there.

One coroutine claims for all sessions in one transaction at a time: credits and runs that come meanwhile
are the next one's. It wakes on signals, and looks by itself once per `POLL`.
"""

import asyncio
import logging
import random
import time
from datetime import timedelta
from typing import Final

from towline.errors import TowlineError
from towline_queue.connections import Connections
from towline_queue.core.dispatch import HandOut
from towline_queue.signals import POLL, Key, Signals, Topic
from towline_queue.store import LeaseStore

__all__ = ["Dispatcher"]

_log = logging.getLogger(__name__)
_PAUSE_S: Final = 0.5


class Dispatcher:
    """Matches waiting runs with the credits of open sessions.

    Args:
        store: The database.
        signals: Wakes it, and hears what it hands out.
        connections: The sessions.
        reserve_after: How long a run that fits nowhere yet is passed by smaller ones at most.
    """

    def __init__(
        self, store: LeaseStore, signals: Signals, connections: Connections, *, reserve_after: timedelta
    ) -> None:
        self._store = store
        self._signals = signals
        self._connections = connections
        self._reserve_after = reserve_after

    async def run(self) -> None:
        """Hand out runs until cancelled."""
        with self._signals.watching(Key(Topic.READY), Key(Topic.CREDITS)) as watch:
            while True:
                try:
                    handed_out = await self.hand_out()
                except TowlineError as error:
                    _log.warning("handing out failed, trying again: %s", error.message)
                    await _pause()
                except Exception:
                    # The one task that everything waits for must not die of one bad row or deadlock.
                    _log.exception("handing out failed, trying again")
                    await _pause()
                else:
                    if not handed_out:
                        await watch.wait(POLL)

    async def hand_out(self) -> int:
        """Hand out what fits now, at most one batch, and return how many runs that were."""
        sessions = {session.protocol.key.id: session for session in self._connections}
        handout = HandOut(
            [session.protocol for session in sessions.values()],
            time.monotonic(),
            reserve_after=self._reserve_after,
        )
        if not handout.worthwhile:
            return 0
        try:
            claimed = await self._store.hand_out(handout.offers, handout.choose)
        except BaseException:
            handout.failed()
            raise
        for session_id, granted in handout.claimed(claimed).items():
            sessions[session_id].handle(granted)
        for lease in claimed:
            self._signals.run_changed(lease.key.run)
        return len(claimed)


async def _pause() -> None:
    await asyncio.sleep(_PAUSE_S * (0.5 + random.random()))  # noqa: S311 - jitter
