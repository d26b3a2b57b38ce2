"""Logs: read from any place, followed over broken connections."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import cached_property
from typing import TYPE_CHECKING

from towline.client import shorthand
from towline.client.calls import Service, reconnecting
from towline.client.runs import Runs
from towline.client.tailing import Reader
from towline.names import RunName
from towline.v1 import logs_pb2
from towline.v1.logs_pb2_grpc import LogServiceStub

if TYPE_CHECKING:  # exists for type checkers only
    from towline.v1.logs_pb2_grpc import LogServiceAsyncStub

__all__ = ["Logs"]


class Logs:
    """What programs and builds print."""

    def __init__(self, queue: Service, runs: Runs) -> None:
        self._queue = queue
        self._runs = runs

    @cached_property
    def _stub(self) -> "LogServiceAsyncStub":
        return LogServiceStub(self._queue.channel)

    async def tail(
        self,
        run: str,
        *,
        epoch: int = 0,
        stream: "logs_pb2.LogStream.ValueType" = logs_pb2.LOG_STREAM_OUTPUT,
        offset: int = 0,
        follow: bool = False,
    ) -> AsyncGenerator[logs_pb2.TailLogsResponse, None]:
        """Read a log, each byte once and in order, whatever becomes of the connection.

        Args:
            run: The run.
            epoch: The attempt; 0: the newest, and with `follow` those after it.
            stream: What the program printed, or its image's build.
            offset: First byte wanted; negative: that many bytes before the end.
            follow: Whether to wait for more until the attempt, or with epoch 0 the run, has ended.
        """
        reader = Reader(
            logs_pb2.TailLogsRequest(
                run=shorthand.run(run), epoch=epoch, stream=stream, offset=offset, follow=follow
            )
        )
        while True:
            pieces = reconnecting(lambda: self._queue.stream(self._stub.TailLogs, reader.request()))
            async with aclosing(pieces):
                async for piece in pieces:
                    if fresh := reader.read(piece):
                        yield fresh
            if epoch or not follow or not reader.catching_up:
                return
            following = await self._attempt_after(reader.run, reader.epoch)
            if following is None:
                return
            reader.go_to(following)

    async def _attempt_after(self, run: RunName, epoch: int) -> int | None:
        """Wait for the attempt that follows one; None if the run ends without."""
        async with aclosing(self._runs.watch(run)) as changes:
            async for change in changes:
                later = [attempt.epoch for attempt in change.attempts if attempt.epoch > epoch]
                if later:
                    return min(later)
        return None
