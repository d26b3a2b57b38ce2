"""Keeping on disk until when containers may run, for the watchdog and for the agent's next start."""

import asyncio
import logging
from typing import Final

from towline_agent.attempts import Attempt, Signal
from towline_agent.core.containers import container_name, stop_signal
from towline_agent.core.lease import Lease
from towline_agent.core.leases import LeaseBook
from towline_agent.deadlines import Deadline, Deadlines

__all__ = ["DeadlineKeeper"]

_log = logging.getLogger(__name__)
_TRY_AGAIN_S: Final = 1.0


class DeadlineKeeper:
    """Writes the deadlines of a book whenever they have changed; `run` must run.

    Args:
        file: Where they are kept.
        book: Has them.
    """

    def __init__(self, file: Deadlines, book: LeaseBook) -> None:
        self._file = file
        self._book = book
        self._changed = Signal()
        self._waiting: list[asyncio.Event] = []
        self._version = 0
        self._written = 0
        self._wrote = Signal()
        self.found = file.read() or ()
        """What an earlier start has left."""

    def changed(self) -> None:
        """Have them written."""
        self._version += 1
        self._changed.set()

    def permit(self, attempt: Attempt) -> None:
        """Let an attempt's container start once the file has its deadline.

        Before, nobody would end it if this process died.
        """
        self._keep(attempt.permitted)

    def begin(self, attempt: Attempt) -> None:
        """Let an attempt's container start once the file says that it has begun.

        Before, an agent that finds no container after this process died would make another one.
        """
        self._keep(attempt.begin_kept)

    async def run(self) -> None:
        """Write until cancelled; what cannot be written is tried again."""
        failing = False
        while True:
            await self._changed.wait()
            version = self._version
            waiting, self._waiting = self._waiting, []
            entries = [_entry(lease) for lease in self._book.leases if lease.at_risk]
            try:
                await asyncio.to_thread(self._file.write, entries)
            except OSError as error:
                if not failing:
                    _log.error("deadlines cannot be written, no container is started: %s", error)
                failing = True
                self._waiting = waiting + self._waiting
                await asyncio.sleep(_TRY_AGAIN_S)
                self._changed.set()
            else:
                failing = False
                self._written = version
                self._wrote.set()
                for kept in waiting:
                    kept.set()

    async def settled(self) -> None:
        """Wait until the file says what the book says."""
        while self._written != self._version:
            await self._wrote.wait()

    def _keep(self, kept: asyncio.Event) -> None:
        """Have an event set when the file says what the book says now."""
        self._waiting.append(kept)
        self.changed()


def _entry(lease: Lease) -> Deadline:
    window = lease.window
    return Deadline(
        lease=lease.grant.lease_id,
        epoch=lease.grant.epoch,
        run=lease.spec.run,
        container=container_name(lease.spec.run, lease.grant.epoch),
        signal=stop_signal(lease.spec),
        # JSON has no infinity; what was over before this boot is over at its begin.
        stop_at=max(0.0, window.stop_at),
        kill_at=max(0.0, window.kill_at),
        reason=window.reason.word,
        container_id=lease.container_id,
        begun=lease.begun,
    )
