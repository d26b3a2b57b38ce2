"""Reads logs, and follows them until they are complete."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

from sqlalchemy.ext.asyncio import AsyncEngine

from towline.errors import NotFound, OutOfRange
from towline.names import RunName
from towline.service.postgres import transaction
from towline_queue.core.log_pieces import Piece, StreamKey
from towline_queue.signals import Key, Signals, Topic, Watch
from towline_queue.storage import logs

__all__ = ["LogReader", "Tail"]

# A reader that takes nothing costs the memory of a few pieces, for as long as it stays.
_PIECE_BYTES: Final = 256 * 1024


@dataclass(frozen=True)
class Tail:
    """What a reader wants.

    Attributes:
        run: The run.
        epoch: Of the attempt; 0: the newest, and when following those after it.
        stream: A towline.v1.LogStream.
        offset: First byte; negative: that many before the end.
        follow: Whether to wait for more until the attempt (with epoch 0, the run) has ended.
    """

    run: RunName
    epoch: int
    stream: int
    offset: int
    follow: bool


class LogReader:
    """Reads logs for any number of readers; each goes at its own pace.

    Args:
        engine: The database.
        signals: Tells when there is more.
    """

    def __init__(self, engine: AsyncEngine, signals: Signals) -> None:
        self._engine = engine
        self._signals = signals

    async def tail(self, wanted: Tail) -> AsyncIterator[Piece]:
        """Give the log from where it is wanted, in pieces of at most 256 KiB.

        A log has ended when its attempt has: an agent sends all of the log before the result.

        Raises:
            NotFound: RUN_NOT_FOUND, ATTEMPT_NOT_FOUND.
            OutOfRange: The offset lies past the end; LOG_OFFSET_GAP.
        """
        with self._signals.watching(Key(Topic.LOG, wanted.run), Key(Topic.RUN, wanted.run)) as watch:
            key = await self._first(wanted, watch)
            offset: int | None = None
            while key is not None:
                async with transaction(self._engine) as connection:
                    now = await logs.attempt_log(connection, key)
                if offset is None:
                    offset = _start(wanted.offset, now.size)
                while offset < now.size:
                    async with transaction(self._engine) as connection:
                        data = await logs.read(connection, key, offset, min(_PIECE_BYTES, now.size - offset))
                    yield Piece(key, offset, data)
                    offset += len(data)
                if not wanted.follow or (now.ended and wanted.epoch):
                    return
                if not now.ended:
                    await watch.wait()
                    continue
                key, offset = await self._next(key, watch), 0

    async def _first(self, wanted: Tail, watch: Watch) -> StreamKey | None:
        """Return the stream to begin with, waiting for an attempt if that is wanted; None: there is none."""
        while True:
            async with transaction(self._engine) as connection:
                run = await logs.run_log(connection, wanted.run)
            if wanted.epoch and wanted.epoch not in run.epochs:
                raise NotFound(
                    f"{wanted.run} has no attempt with epoch {wanted.epoch}; give 0 for the newest",
                    reason="ATTEMPT_NOT_FOUND",
                    metadata={"run": wanted.run, "epoch": str(wanted.epoch)},
                )
            if run.epochs:
                return StreamKey(wanted.run, wanted.epoch or run.epochs[-1], wanted.stream)
            if run.ended or not wanted.follow:
                return None
            await watch.wait()

    async def _next(self, key: StreamKey, watch: Watch) -> StreamKey | None:
        """Return the stream of the attempt after one that has ended, waiting for it; None: there is none."""
        while True:
            async with transaction(self._engine) as connection:
                run = await logs.run_log(connection, key.run)
            if later := [epoch for epoch in run.epochs if epoch > key.epoch]:
                return key._replace(epoch=later[0])
            if run.ended:
                return None
            await watch.wait()


def _start(offset: int, size: int) -> int:
    if offset > size:
        raise OutOfRange(
            f"offset: {offset} is past the end of the log, which has {size} bytes",
            reason="LOG_OFFSET_GAP",
            metadata={"offset": str(offset), "size": str(size)},
        )
    return offset if offset >= 0 else max(0, size + offset)
