"""Writes logs of all agents in shared transactions: many small pieces cost one commit."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from sqlalchemy.ext.asyncio import AsyncEngine

from towline.errors import TowlineError
from towline.service.postgres import transaction
from towline_queue.core.log_pieces import Piece, Standing
from towline_queue.signals import Signals
from towline_queue.storage import logs

__all__ = ["LogWriter"]

# Bounds of what waits and of one transaction; with pieces of at most 1 MiB, also bounds of memory.
_MOST_WAITING: Final = 64
_MOST_BYTES: Final = 8 * 1024 * 1024


@dataclass(frozen=True)
class _Append:
    piece: Piece
    answer: asyncio.Future[Standing] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


class LogWriter:
    """The one writer of logs in this process.

    Args:
        engine: The database.
        signals: Gets an announcement for each run whose log grew.
    """

    def __init__(self, engine: AsyncEngine, signals: Signals) -> None:
        self._engine = engine
        self._signals = signals
        self._waiting: asyncio.Queue[_Append] = asyncio.Queue(_MOST_WAITING)

    async def append(self, piece: Piece) -> "asyncio.Future[Standing]":
        """Take a piece, waiting while too many wait; pieces of one caller are written in its order.

        Returns:
            Gets where the stream stands once the piece is durable, or Unavailable if PostgreSQL is away.
        """
        item = _Append(piece)
        await self._waiting.put(item)
        return item.answer

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            group = [await self._waiting.get()]
            # What came while the last group was being committed; nobody is waited for.
            size = len(group[0].piece.data)
            while not self._waiting.empty() and size < _MOST_BYTES:
                group.append(self._waiting.get_nowait())
                size += len(group[-1].piece.data)
            await self._write(group)

    async def _write(self, group: Sequence[_Append]) -> None:
        try:
            async with transaction(self._engine) as connection:
                standing = await logs.append(connection, [item.piece for item in group])
        except TowlineError as error:
            for item in group:
                if not item.answer.done():
                    item.answer.set_exception(error)
                    # Whoever asked may be gone; an answer that nobody takes is no defect.
                    item.answer.exception()
            return
        for item, answer in zip(group, standing, strict=True):
            if not item.answer.done():
                item.answer.set_result(answer)
        for run in {item.piece.key.run for item in group if item.piece.data}:
            self._signals.log_grew(run)
