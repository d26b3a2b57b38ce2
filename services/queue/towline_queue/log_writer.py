"""Writes logs of all agents in shared transactions: many small pieces cost one commit."""

import asyncio
from collections.abc import Sequence
from typing import Final

from sqlalchemy.ext.asyncio import AsyncEngine

from towline.service.postgres import transaction
from towline_queue.byte_budget import ByteBudget
from towline_queue.core.log_pieces import Piece, Standing
from towline_queue.group_commit import GroupCommit
from towline_queue.signals import Signals
from towline_queue.storage import logs

__all__ = ["LogWriter"]

_PER_COMMIT: Final = 128
_WAITING: Final = 256
# Of pieces that are not durable yet; each has at most 1 MiB.
_MOST_BYTES: Final = 8 * 1024 * 1024


class LogWriter:
    """The one writer of logs in this process.

    Args:
        engine: The database.
        signals: Gets an announcement for each run whose log grew.
    """

    def __init__(self, engine: AsyncEngine, signals: Signals) -> None:
        self._engine = engine
        self._signals = signals
        self._commits = GroupCommit(self._write, most=_PER_COMMIT, waiting=_WAITING)
        self._budget = ByteBudget(_MOST_BYTES)

    async def append(self, piece: Piece) -> asyncio.Future[Standing]:
        """Take a piece and return what will say where its stream stands once the piece is durable.

        Pieces of one caller are written in its order. While PostgreSQL is away, answers wait; so does
        who has more than may be kept in memory meanwhile.
        """
        size = len(piece.data)
        await self._budget.take(size)
        try:
            answer = await self._commits.enter(piece)
        except asyncio.CancelledError:
            self._budget.give(size)
            raise
        answer.add_done_callback(lambda _: self._budget.give(size))
        return answer

    async def run(self) -> None:
        """Write until cancelled."""
        await self._commits.run()

    async def _write(self, pieces: Sequence[Piece]) -> list[Standing]:
        async with transaction(self._engine) as connection:
            standing = await logs.append(connection, pieces)
        for run in {piece.key.run for piece in pieces if piece.data}:
            self._signals.log_grew(run)
        return standing
