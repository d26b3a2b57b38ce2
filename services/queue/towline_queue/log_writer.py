"""Writes logs of all agents in shared transactions: many small pieces cost one commit."""

import asyncio
from collections.abc import Sequence
from typing import Final

from sqlalchemy.ext.asyncio import AsyncEngine

from towline.service.postgres import transaction
from towline_queue.core.log_pieces import Piece, Standing
from towline_queue.group_commit import GroupCommit
from towline_queue.signals import Signals
from towline_queue.storage import logs

__all__ = ["LogWriter"]

# Pieces have at most 1 MiB, so these bound memory too.
_PER_COMMIT: Final = 32
_WAITING: Final = 64


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

    async def append(self, piece: Piece) -> asyncio.Future[Standing]:
        """Take a piece and return what will say where its stream stands once the piece is durable.

        Pieces of one caller are written in its order. While PostgreSQL is away, answers wait.
        """
        return await self._commits.enter(piece)

    async def run(self) -> None:
        """Write until cancelled."""
        await self._commits.run()

    async def _write(self, pieces: Sequence[Piece]) -> list[Standing]:
        async with transaction(self._engine) as connection:
            standing = await logs.append(connection, pieces)
        for run in {piece.key.run for piece in pieces if piece.data}:
            self._signals.log_grew(run)
        return standing
