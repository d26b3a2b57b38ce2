"""A bound on memory: bytes that are on their way somewhere, over all callers."""

import asyncio
from collections import deque

__all__ = ["ByteBudget"]


class ByteBudget:
    """Lets callers have so many bytes in all; who needs more than is left waits, in order.

    Args:
        most: Bytes in all; nobody may take more than that at once.
    """

    def __init__(self, most: int) -> None:
        self._free = most
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def take(self, size: int) -> None:
        """Wait until there is room for `size` bytes and take it; `give` it back."""
        if not self._waiting and size <= self._free:
            self._free -= size
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((size, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._admit()  # those behind may fit where this one did not
            else:  # it came in the same moment
                self.give(size)
            raise

    def give(self, size: int) -> None:
        """Give bytes back that were taken."""
        self._free += size
        self._admit()

    def _admit(self) -> None:
        while self._waiting:
            size, turn = self._waiting[0]
            if not turn.cancelled():
                if size > self._free:
                    return
                self._free -= size
                turn.set_result(None)
            self._waiting.popleft()
