"""What the tasks at work on one lease share: orders that reach them, and reports that they make."""

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Final

from towline.v1 import leases_pb2, runs_pb2
from towline_agent.core.effects import Effect
from towline_agent.core.lease import GotImage, Lease
from towline_agent.core.leases import LeaseBook
from towline_agent.core.stops import Exit, Signalled
from towline_agent.deadlines import boottime

__all__ = ["Attempt", "Signal", "to_boottime"]

_NOTICED_S: Final = 0.2


def to_boottime(moment: float) -> float:
    """Convert seconds since the epoch, such as the engine tells, to the clock of leases."""
    return boottime() - (time.time() - moment)


class Signal:
    """Wakes one reader when something has changed."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def set(self) -> None:
        """Wake the reader, now or when it comes."""
        self._event.set()

    async def wait(self) -> None:
        """Wait until `set` was called since the last return."""
        await self._event.wait()
        self._event.clear()


class Attempt:
    """One lease while something is at work on it.

    Args:
        lease: The lease, as the book has it; only read here.
        book: What happens is told to it.
        apply: Carries out the effects.
    """

    def __init__(self, lease: Lease, book: LeaseBook, apply: Callable[[Iterable[Effect]], None]) -> None:
        self.lease = lease
        self._book = book
        self._apply = apply
        self.stopping = asyncio.Event()
        """Set when an order to stop has come: lease.stop."""
        self.ordered = Signal()
        """Set with each order to stop."""
        self.killing = asyncio.Event()
        """Set when SIGKILL is due."""
        self.permitted = asyncio.Event()
        """Set when the container may be started, as far as the queue service is concerned."""
        self.begin_kept = asyncio.Event()
        """Set when it is on disk that the container may have been started."""
        self.exit_kept = asyncio.Event()
        """Set when the journal has the exit, or cannot take it."""
        self.dropped = asyncio.Event()
        """Set when no result is wanted."""
        self.idle = asyncio.Event()
        """Set while nothing brings the attempt to a result."""
        self.idle.set()
        if lease.exit is not None:
            self.exit_kept.set()

    @property
    def grant(self) -> leases_pb2.Grant:
        """Return the lease as granted."""
        return self.lease.grant

    @property
    def spec(self) -> runs_pb2.LaunchSpec:
        """Return what to execute."""
        return self.lease.grant.spec

    def order_stop(self) -> None:
        """Let the order in `lease.stop` reach those at work."""
        self.stopping.set()
        self.ordered.set()

    def tell(self, detail: str) -> None:
        """Say for people what it does now."""
        self._book.told(self.lease.key, detail)
        self._apply(())

    @contextmanager
    def telling(self, detail: str) -> Iterator[None]:
        """Say what the block does if that takes a while: each word costs the queue service a write."""
        timer = asyncio.get_running_loop().call_later(_NOTICED_S, self.tell, detail)
        try:
            yield
        finally:
            timer.cancel()

    def has_image(
        self,
        outcome: runs_pb2.ImageOutcome.ValueType,
        image_id: str,
        how: runs_pb2.AttemptImage | None,
    ) -> None:
        """Report how the image was got; `how`: what was done for it, None: nothing."""
        self._book.has_image(self.lease.key, GotImage(outcome, image_id, how))
        self.tell("the image is there")

    def has_no_image(self, how: runs_pb2.AttemptImage | None) -> None:
        """Report what was done for an image that cannot be had."""
        self._book.has_image(self.lease.key, GotImage(how=how))
        self.tell("there is no image")

    def prepares(self) -> None:
        """Report that image and container are being made."""
        self._book.prepared(self.lease.key)

    async def starts(self) -> bool:
        """Note on disk that it has begun, and tell whether its container may be started now.

        False: an order to stop is there or on its way.
        """
        await self.permitted.wait()
        if not (effects := self._book.starts(self.lease.key, boottime())):
            return False
        self._apply(effects)
        await self.begin_kept.wait()
        return bool(self._book.starts(self.lease.key, boottime()))

    def started(self, container_id: str, at: float) -> None:
        """Report that its container was started, at a moment of the clock of leases."""
        self._apply(self._book.started(self.lease.key, container_id, at))

    def announced(self) -> None:
        """Report that the stop file is put now."""
        self._apply(self._book.announced(self.lease.key, boottime()))

    def signalled(self) -> None:
        """Report that the stop signal is sent now."""
        self._apply(self._book.signalled(self.lease.key, boottime()))

    def exited(self, exit: Exit, expired: Signalled | None) -> None:
        """Report how its container ended, and what its watchdog had sent."""
        self._apply(self._book.exited(self.lease.key, exit, expired))
