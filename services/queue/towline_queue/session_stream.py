"""One agent's stream: reads what it says, has it carried out in order, writes what it is to hear."""

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

_INBOX: Final = 256
_LAST_WORDS: Final = timedelta(seconds=1)


class SessionStream:
    """Carries a session's events to its protocol and its messages to the stream.

    Args:
        session: A new session.
        leasing: What sessions need.
    """

    def __init__(self, session: Session, leasing: Leasing) -> None:
        self._session = session
        self._leasing = leasing
        self._inbox: asyncio.Queue[leases_pb2.StreamLeasesRequest | None] = asyncio.Queue(_INBOX)

    async def serve(
        self,
        hello: leases_pb2.StreamLeasesRequest,
        requests: AsyncIterator[leases_pb2.StreamLeasesRequest],
        stream: Stream,
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
                await self._exchange(requests, stream)
            finally:
                self._leasing.connections.remove(session)
        if session.error is not None:
            raise session.error

    async def _exchange(
        self, requests: AsyncIterator[leases_pb2.StreamLeasesRequest], stream: Stream
    ) -> None:
        async with asyncio.TaskGroup() as group:
            listening = [
                group.create_task(self._read(requests, stream), name="read"),
                group.create_task(self._handle_all(), name="handle"),
            ]
            writing = group.create_task(self._write(stream), name="write")
            await self._session.closing.wait()
            await asyncio.wait([writing], timeout=_LAST_WORDS.total_seconds())
            for task in listening:
                task.cancel()
            # gRPC cannot end a stream while it writes to it. If the agent does not read, the write that is
            # under way, and this call, last until it does or hangs up; nothing else waits for that.
            self._session.hush()
            self._leasing.connections.remove(self._session)

    async def _handle(self, event: Event) -> None:
        """Tell the session of an event, and have carried out what it asks of the store because of it."""
        call = self._session.handle(event)
        while call is not None:
            call = self._session.handle(await self._leasing.desk.call(call))

    async def _read(self, requests: AsyncIterator[leases_pb2.StreamLeasesRequest], stream: Stream) -> None:
        async for message in requests:
            await self._inbox.put(message)
        if not stream.cancelled():  # a broken connection is no good-bye
            await self._inbox.put(None)

    async def _write(self, stream: Stream) -> None:
        try:
            while (message := await self._session.next_message()) is not None:
                await stream.write(message)
        except (grpc.aio.BaseError, asyncio.InvalidStateError) as error:
            # The agent is gone. Its leases stay as they are, so there is nothing to say.
            _log.debug("%s went away: %s", self._session.agent, error)
            self._session.handle(Broken())

    async def _handle_all(self) -> None:
        """Have carried out what came, all that has come at a time, until the agent says good-bye."""
        last = False
        while not last:
            messages, last = await self._take()
            await self._handle(Said(messages))
        await self._handle(Goodbye())

    async def _take(self) -> tuple[list[leases_pb2.StreamLeasesRequest], bool]:
        """Return all messages that have come, at least one or the end, and whether that was the end."""
        messages = []
        message = await self._inbox.get()
        while message is not None:
            messages.append(message)
            if self._inbox.empty():
                return messages, False
            message = self._inbox.get_nowait()
        return messages, True
