"""Group commit: what many callers want at once becomes one transaction.

While one transaction runs, what arrives is collected for the next; when idle, nothing waits.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from towline.errors import Unavailable

__all__ = ["GroupCommit"]

_log = logging.getLogger(__name__)
_Item = TypeVar("_Item")
_Answer = TypeVar("_Answer")

_WAITING: Final = 4096
_RETRY_S: Final = 0.5


@dataclass(slots=True)
class _Entry(Generic[_Item, _Answer]):
    item: _Item
    answer: asyncio.Future[_Answer]


class GroupCommit(Generic[_Item, _Answer]):
    """Carries out items in the order they came, many per call of `apply`, and repeats through an outage.

    Args:
        apply: Carries out a batch in one transaction and returns an answer for each item, in order; it is
            repeated when nobody knows whether it was committed, so it must be idempotent.
        most: Weight of the items of a batch; the one that reaches it is the last.
        waiting: Items that may wait for the next batch; who brings more waits until there is room.
        weigh: Gives the weight of an item.
    """

    def __init__(
        self,
        apply: Callable[[Sequence[_Item]], Awaitable[Sequence[_Answer]]],
        *,
        most: int = 512,
        waiting: int = _WAITING,
        weigh: Callable[[_Item], int] = lambda _: 1,
    ) -> None:
        self._apply = apply
        self._most = most
        self._weigh = weigh
        self._entries: asyncio.Queue[_Entry[_Item, _Answer]] = asyncio.Queue(waiting)

    async def submit(self, item: _Item) -> _Answer:
        """Have an item carried out and return its answer after the commit; waits through an outage."""
        return await (await self.enter(item))

    async def enter(self, item: _Item) -> asyncio.Future[_Answer]:
        """Take an item and return what will hold its answer; items of one caller keep their order."""
        answer: asyncio.Future[_Answer] = asyncio.get_running_loop().create_future()
        entry = _Entry(item, answer)
        await self._entries.put(entry)
        return entry.answer

    async def run(self) -> None:
        """Carry out what is submitted until cancelled; several of these have several batches under way."""
        batch: list[_Entry[_Item, _Answer]] = []
        try:
            while True:
                batch = [await self._entries.get()]
                weight = self._weigh(batch[0].item)
                while weight < self._most and not self._entries.empty():
                    batch.append(self._entries.get_nowait())
                    weight += self._weigh(batch[-1].item)
                await self._commit(batch)
        finally:
            while not self._entries.empty():
                batch.append(self._entries.get_nowait())
            for entry in batch:  # callers outlive this task only while the service stops
                _fail(entry, Unavailable("the service stops; repeat the request", reason="SERVICE_STOPPING"))

    async def _commit(self, batch: list[_Entry[_Item, _Answer]]) -> None:
        # Callers that are gone have closed their streams; what they said will be said again.
        wanted = [entry for entry in batch if not entry.answer.done()]
        while wanted:
            try:
                answers = await self._apply([entry.item for entry in wanted])
            except Unavailable as error:
                _log.warning("not committed, trying again: %s", error.message)
                await asyncio.sleep(_RETRY_S * (0.5 + random.random()))  # noqa: S311 - jitter
                wanted = [entry for entry in wanted if not entry.answer.done()]
                continue
            except Exception as error:
                if len(wanted) == 1:
                    _fail(wanted[0], error)
                else:  # one bad item must not fail the others
                    for entry in wanted:
                        await self._commit([entry])
                return
            for entry, answer in zip(wanted, answers, strict=True):
                if not entry.answer.done():
                    entry.answer.set_result(answer)
            return


def _fail(entry: "_Entry[_Item, _Answer]", error: Exception) -> None:
    if not entry.answer.done():
        entry.answer.set_exception(error)
        entry.answer.exception()  # a caller that is gone leaves it unread, which is no defect
