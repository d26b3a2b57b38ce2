"""How long a transfer goes on trying."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from towline.client.calls import Backoff
from towline.errors import DeadlineExceeded, ResourceExhausted, TowlineError, Unavailable

__all__ = ["Patience", "persistently"]

T = TypeVar("T")

# A service that is restarted or moved to another machine is back within that.
LONGEST_S: Final = 60.0


class Patience:
    """Decides on failures: another attempt after a pause, until nothing has moved for a minute."""

    def __init__(self) -> None:
        self._backoff = Backoff(most_s=4.0)
        self._failing_since: float | None = None

    def moved(self) -> None:
        """Note that something came through."""
        self._backoff.reset()
        self._failing_since = None

    def pause_s(self, error: TowlineError) -> float | None:
        """Note a failure; give the seconds after which another attempt may help, None: it will not."""
        wait_s = 0.0
        if isinstance(error, ResourceExhausted):
            if error.retry_after is None:
                return None
            wait_s = error.retry_after.total_seconds()
        elif not isinstance(error, Unavailable | DeadlineExceeded):
            return None
        now = asyncio.get_running_loop().time()
        if self._failing_since is None:
            self._failing_since = now
        if now - self._failing_since > LONGEST_S:
            return None
        return wait_s + self._backoff.failed()

    async def wait(self, error: TowlineError) -> None:
        """Note a failure and wait until another attempt may help; raise it where none will."""
        pause_s = self.pause_s(error)
        if pause_s is None:
            raise error
        await asyncio.sleep(pause_s)


async def persistently(work: Callable[[], Awaitable[T]]) -> T:
    """Do something that may be repeated, for a minute while a service cannot be reached; give its result.

    Raises:
        TowlineError: What `work` raised last.
    """
    patience = Patience()
    while True:
        try:
            return await work()
        except TowlineError as error:
            await patience.wait(error)
