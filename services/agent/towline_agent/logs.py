"""Log shipping: one AppendLogs call for all attempts, resumed where the queue service stands."""

import asyncio
import logging
from collections import deque
from random import random
from typing import Any, Final

import grpc

from towline.errors import Aborted, InvalidArgument, NotFound, OutOfRange, TowlineError, Unavailable
from towline.v1 import logs_pb2, logs_pb2_grpc
from towline_agent.attempts import Signal
from towline_agent.calls import CALL_ERRORS, told_by
from towline_agent.core.backoff import Backoff
from towline_agent.core.offsets import SendWindow

__all__ = ["LogPipe", "LogWriter"]

_log = logging.getLogger(__name__)

# Bytes of one log that may wait for an acknowledgement; reading the engine's log stops beyond.
_BOUND_BYTES: Final = 4 * 1024 * 1024
_PIECE_BYTES: Final = 256 * 1024
# A service that leaves a request unanswered for longer is taken for dead.
_ANSWER_S: Final = 30.0

# What a service may have against one log, and not against the call.
_REFUSALS: Final = (NotFound, InvalidArgument, OutOfRange, Aborted)

_Call = grpc.aio.StreamStreamCall[logs_pb2.AppendLogsRequest, logs_pb2.AppendLogsResponse]
_Key = tuple[str, int, logs_pb2.LogStream.ValueType]


class LogWriter:
    """One log of one attempt. Made by LogPipe.writer."""

    def __init__(self, key: _Key, wake: Signal) -> None:
        self.key = key
        self._wake = wake
        self._window: SendWindow | None = None
        self._asked = False
        self._owed = 0
        self._progress = asyncio.Condition()
        self.refused = False
        """Whether the queue service wants no more of it: what is written then goes nowhere."""

    def begins(self) -> None:
        """Take the log for one that nobody has written to: nobody is asked where it goes on."""
        if self._window is None:
            self._window = SendWindow(0)

    async def position(self) -> int:
        """Return the offset at which the log goes on, as the queue service has it."""
        self._wake.set()
        async with self._progress:
            await self._progress.wait_for(lambda: self._window is not None or self.refused)
        return self._window.committed if self._window else 0

    async def write(self, data: bytes) -> None:
        """Add bytes; waits while too many are unacknowledged."""
        if not data:
            return
        await self.position()
        async with self._progress:
            await self._progress.wait_for(lambda: self.refused or self._unacknowledged < _BOUND_BYTES)
        if self._window and not self.refused:
            self._window.write(data)
            self._wake.set()

    async def flush(self) -> int:
        """Wait until all is durable and return the log's size."""
        size = await self.position()
        async with self._progress:
            await self._progress.wait_for(lambda: self.refused or self._unacknowledged == 0)
        return self._window.written if self._window else size

    @property
    def _unacknowledged(self) -> int:
        return self._window.unacknowledged if self._window else 0

    def _next(self) -> logs_pb2.AppendLogsRequest | None:
        """Return what to send now, if anything."""
        run, epoch, stream = self.key
        request = logs_pb2.AppendLogsRequest(run=run, epoch=epoch, stream=stream)
        if self.refused:
            return None
        if self._window is None:
            if self._asked:
                return None
            self._asked = True
            self._owed += 1
            return request
        unsent = self._window.unsent
        # While an answer is owed, bytes are gathered: each request costs the service a write to disk.
        if not unsent or (self._owed and unsent < _PIECE_BYTES):
            return None
        self._owed += 1
        request.offset, request.data = self._window.take(_PIECE_BYTES)
        return request

    def _rewind(self) -> None:
        self._asked = False
        self._owed = 0
        if self._window:
            self._window.rewind()

    async def _answered(self, response: logs_pb2.AppendLogsResponse) -> None:
        self._owed -= 1
        async with self._progress:
            if response.stale:
                self.refused = True
            elif self._window is None:
                self._window = SendWindow(response.committed_offset)
            else:
                self._window.acknowledge(response.committed_offset)
            self._progress.notify_all()

    async def _refuse(self) -> None:
        async with self._progress:
            self.refused = True
            self._progress.notify_all()


# Requests without an answer, oldest first, and when each was sent.
_Owed = deque[tuple[LogWriter, float]]


class LogPipe:
    """All logs of this agent on one call; `run` must run for anything to move.

    Args:
        channel: To the queue service.
        peer: The service and its address, for messages.
    """

    def __init__(self, channel: grpc.aio.Channel, peer: str) -> None:
        self._stub = logs_pb2_grpc.LogServiceStub(channel)
        self._peer = peer
        self._writers: dict[_Key, LogWriter] = {}
        self._wake = Signal()

    def writer(self, run: str, epoch: int, stream: logs_pb2.LogStream.ValueType) -> LogWriter:
        """Return the writer of a log, the same one until it is closed."""
        key = (run, epoch, stream)
        return self._writers.setdefault(key, LogWriter(key, self._wake))

    def close(self, run: str, epoch: int) -> None:
        """Forget the writers of an attempt, and what they did not deliver."""
        for key in [key for key in self._writers if key[:2] == (run, epoch)]:
            del self._writers[key]

    async def run(self) -> None:
        """Ship until cancelled."""
        backoff = Backoff(random)
        while True:
            await self._work_to_do()
            try:
                await self._one_call(backoff)
            except TowlineError as error:
                if backoff.failures == 0:
                    _log.warning("logs wait here: %s", error)
                await asyncio.sleep(backoff.failed())

    async def _work_to_do(self) -> None:
        while not any(self._pending_writers()):
            await self._wake.wait()
        self._wake.set()  # for the sender of the call that begins

    def _pending_writers(self) -> list[LogWriter]:
        return [
            writer
            for writer in self._writers.values()
            if not writer.refused and (writer._window is None or writer._unacknowledged)
        ]

    async def _one_call(self, backoff: Backoff) -> None:
        for writer in self._writers.values():
            writer._rewind()
        # No deadline: it serves every attempt to come; each answer has one instead.
        call: _Call = self._stub.AppendLogs()
        owed: _Owed = deque()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._send(call, owed))
                group.create_task(self._watch(owed))
                await self._receive(call, owed, backoff)
        except* CALL_ERRORS as errors:
            await self._judge(told_by(errors, self._peer), owed)
        finally:
            call.cancel()

    async def _send(self, call: _Call, owed: _Owed) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._wake.wait()
            for writer in list(self._writers.values()):
                while (request := writer._next()) is not None:
                    owed.append((writer, loop.time()))
                    await call.write(request)

    async def _receive(self, call: _Call, owed: _Owed, backoff: Backoff) -> None:
        while True:
            response: Any = await call.read()
            if response is grpc.aio.EOF:
                raise Unavailable(f"{self._peer} ended the log call", reason="UNAVAILABLE")
            backoff.succeeded()
            await owed.popleft()[0]._answered(response)
            self._wake.set()

    async def _watch(self, owed: _Owed) -> None:
        """End the call when an answer is owed for too long: nobody is there."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_ANSWER_S / 4)
            if owed and loop.time() - owed[0][1] > _ANSWER_S:
                raise Unavailable(f"{self._peer} left a log unanswered", reason="UNAVAILABLE")

    async def _judge(self, error: TowlineError, owed: _Owed) -> None:
        """Find whom an error is about: answers come in order, so a refusal is about the oldest request."""
        if not owed or not isinstance(error, _REFUSALS):
            raise error
        writer = owed[0][0]
        _log.error("the log of %s (epoch %d) is given up: %s", writer.key[0], writer.key[1], error)
        await writer._refuse()
