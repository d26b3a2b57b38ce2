"""One agent's stream: reads what it says, has it carried out in order, writes what it is to hear.

An idle stream is one task that reads; handling and writing are tasks only while there is something to do, for
a process has thousands of streams.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any, Final

import grpc

from towline.v1 import leases_pb2
from towline_queue.connections import Session
from towline_queue.core.session_events import Broken, Event, Goodbye, Hello, Said
from towline_queue.leasing import Leasing

__all__ = ["SessionStream", "Stream"]

_log = logging.getLogger(__name__)

Stream = grpc.aio.ServicerContext[Any, Any]

# What an agent says while something it said before is carried out. Beyond these it is not read, and HTTP/2's
# flow control holds it back.
_INBOX: Final = 256
_INBOX_BYTES: Final = 1024 * 1024
_LAST_WORDS: Final = timedelta(seconds=1)
_IN_ORDER: Final = timedelta(milliseconds=20)


class SessionStream:
    """Carries a session's events to its protocol and its messages to the stream.

    Args:
        session: A new session.
        leasing: What sessions need.
        stream: The stream.
    """

    __slots__ = (
        "_group",
        "_handling",
        "_inbox",
        "_inbox_bytes",
        "_leasing",
        "_left",
        "_over",
        "_room",
        "_session",
        "_stream",
        "_writing",
    )

    def __init__(self, session: Session, leasing: Leasing, stream: Stream) -> None:
        self._session = session
        self._leasing = leasing
        self._stream = stream
        self._group = asyncio.TaskGroup()
        self._inbox: list[leases_pb2.StreamLeasesRequest] = []
        self._inbox_bytes = 0
        self._left = False
        """The agent has said good-bye."""
        self._over = False
        """Nothing more is begun."""
        self._room: asyncio.Future[None] | None = None
        """Has a result once the inbox, which was full, is taken."""
        self._handling: asyncio.Task[None] | None = None
        self._writing: asyncio.Task[None] | None = None

    async def serve(
        self,
        hello: leases_pb2.StreamLeasesRequest,
        requests: AsyncIterator[leases_pb2.StreamLeasesRequest],
    ) -> None:
        """Serve the stream, from its first message until it ends in order.

        Raises:
            TowlineError: Why the service ended it.
        """
        session = self._session
        await self._handle(Hello(hello))
        if not session.closing.is_set():
            self._leasing.admit(session)
            try:
                await self._exchange(requests)
            finally:
                self._leasing.connections.remove(session)
        if session.error is not None:
            raise session.error

    async def _exchange(self, requests: AsyncIterator[leases_pb2.StreamLeasesRequest]) -> None:
        session = self._session
        async with self._group as group:
            session.to_write = self._to_write
            self._to_write()
            reading = group.create_task(self._read(requests), name="read")
            try:
                await session.closing.wait()
                if self._writing is not None:
                    await asyncio.wait([self._writing], timeout=_LAST_WORDS.total_seconds())
            finally:
                self._over = True
            reading.cancel()
            if self._handling is not None:
                self._handling.cancel()
            # gRPC cannot end a stream while it writes to it. If the agent does not read, the write that is
            # under way, and this call, last until it does or hangs up; nothing else waits for that.
            session.hush()
            self._leasing.connections.remove(session)

    async def _handle(self, event: Event) -> None:
        """Tell the session of an event, and have carried out what it asks of the store because of it."""
        call = self._session.handle(event)
        while call is not None:
            call = self._session.handle(await self._leasing.desk.call(call))

    async def _read(self, requests: AsyncIterator[leases_pb2.StreamLeasesRequest]) -> None:
        async for message in requests:
            if self._inbox:  # one alone is handled at once, and need not be measured
                self._inbox_bytes += message.ByteSize()
            self._inbox.append(message)
            self._to_handle()
            if len(self._inbox) >= _INBOX or self._inbox_bytes >= _INBOX_BYTES:
                self._room = asyncio.get_running_loop().create_future()
                await self._room
        # A stream that breaks ends here like one that the agent ends. Only after that gRPC cancels this call,
        # which tells the two apart: a broken connection is no good-bye.
        await asyncio.sleep(_IN_ORDER.total_seconds())
        if not self._stream.cancelled():
            self._left = True
            self._to_handle()

    def _to_handle(self) -> None:
        if self._handling is None and not self._over:
            self._handling = self._group.create_task(self._handle_all(), name="handle")

    async def _handle_all(self) -> None:
        """Have carried out what has come, all of it at a time, until nothing is left to do."""
        while self._inbox:
            await self._handle(Said(self._take()))
        if self._left:
            await self._handle(Goodbye())
        else:
            self._handling = None

    def _take(self) -> list[leases_pb2.StreamLeasesRequest]:
        messages, self._inbox, self._inbox_bytes = self._inbox, [], 0
        if self._room is not None:
            self._room.set_result(None)
            self._room = None
        return messages

    def _to_write(self) -> None:
        if self._writing is None and not self._over:
            self._writing = self._group.create_task(self._write_all(), name="write")

    async def _write_all(self) -> None:
        """Write what there is to say, until all of it is said."""
        try:
            while (message := self._session.next_message()) is not None:
                await self._stream.write(message)
        except (grpc.aio.BaseError, asyncio.InvalidStateError) as error:
            # The agent is gone. Its leases stay as they are, so there is nothing to say.
            _log.debug("%s went away: %s", self._session.agent, error)
            self._session.handle(Broken())
        self._writing = None
