"""A connection that a test can cut: TCP, each direction by itself, or at a chosen message of StreamLeases.

Bytes that are held back go on when the wire is mended, as retransmission does in a network.
"""

import asyncio
import struct
import threading
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from google.protobuf.message import DecodeError

from towline.v1 import leases_pb2
from towline_testing.waiting import eventually

_FRAME_HEADER: Final = 9
_DATA: Final = 0
_PADDED: Final = 0x8
_PREFIX: Final = struct.Struct(">BI")

Response = leases_pb2.StreamLeasesResponse


class Wire:
    """A proxy in front of "host:port"; end it with `close`.

    Attributes:
        address: Where to connect in place of the target.
        reached: Set when the message of `hold_at` has come; nothing of that connection passes from it on.
    """

    def __init__(self, target: str) -> None:
        self._target = target.rpartition(":")
        self._links: set[_Link] = set()
        self._up, self._down = asyncio.Event(), asyncio.Event()
        self._match: Callable[[Response], bool] | None = None
        self.reached = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._ready.wait(10)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._port}"

    def cut(self, *, up: bool = True, down: bool = True) -> None:
        """Let nothing pass to the server (`up`), nothing from it (`down`), without a word to either side."""
        self._do(lambda: self._set(up=not up, down=not down))

    def mend(self) -> None:
        """Let everything pass, what was held back first."""

        def mend() -> None:
            self._match = None
            self._set(up=True, down=True)
            for link in self._links:
                link.open.set()

        self._do(mend)

    def hold_at(self, match: Callable[[Response], bool]) -> None:
        """Hold back what the server says from the first message of StreamLeases on that `match` accepts."""

        def arm() -> None:
            self.reached.clear()
            self._match = match

        self._do(arm)

    def drop(self) -> None:
        """Break every connection; what was held back is lost."""
        self._do(lambda: [link.abort() for link in list(self._links)])

    def close(self) -> None:
        self.mend()

        def nobody_connected() -> bool:
            self.drop()  # who was dropped before may have come again
            return not self._links

        eventually(nobody_connected)
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    def _do(self, action: Callable[[], object]) -> None:
        done = threading.Event()

        def act() -> None:
            action()
            done.set()

        self._loop.call_soon_threadsafe(act)
        assert done.wait(10)

    def _set(self, *, up: bool, down: bool) -> None:
        for event, open_ in ((self._up, up), (self._down, down)):
            if open_:
                event.set()
            else:
                event.clear()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        self._set(up=True, down=True)
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self._port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        server.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._up.wait()
        host, _, port = self._target
        try:
            there, away = await asyncio.open_connection(host, int(port))
        except OSError:
            writer.transport.abort()
            return
        link = _Link(writer, away)
        self._links.add(link)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._to_server(reader, away))
                group.create_task(self._to_client(there, writer, link))
        except* OSError:
            pass
        finally:
            self._links.discard(link)
            link.abort()

    async def _to_server(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        while data := await source.read(65536):
            await self._up.wait()
            target.write(data)
            await target.drain()
        with suppress(OSError):
            target.write_eof()

    async def _to_client(
        self, source: asyncio.StreamReader, target: asyncio.StreamWriter, link: "_Link"
    ) -> None:
        while True:
            try:
                header = await source.readexactly(_FRAME_HEADER)
                payload = await source.readexactly(int.from_bytes(header[:3]))
            except asyncio.IncompleteReadError:
                break
            for message in link.messages(header, payload):
                if self._match is not None and self._match(message):
                    self._match = None
                    link.open.clear()
                    self.reached.set()
            await self._down.wait()
            await link.open.wait()
            target.write(header + payload)
            await target.drain()
        with suppress(OSError):
            target.write_eof()


@dataclass(eq=False)
class _Link:
    """One connection through a wire, and what of StreamLeases it has carried to the client."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    open: asyncio.Event = field(default_factory=asyncio.Event)
    streams: dict[int, bytearray] = field(default_factory=lambda: defaultdict(bytearray))
    lease_streams: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.open.set()

    def abort(self) -> None:
        self.client.transport.abort()
        self.server.transport.abort()

    def messages(self, header: bytes, payload: bytes) -> list[Response]:
        """Return the messages of StreamLeases that this frame completes."""
        kind, flags, stream = header[3], header[4], int.from_bytes(header[5:9])
        if kind != _DATA:
            return []
        if flags & _PADDED:
            payload = payload[1 : len(payload) - payload[0]]
        buffer = self.streams[stream]
        buffer += payload
        found = []
        while len(buffer) >= _PREFIX.size:
            _, size = _PREFIX.unpack_from(buffer)
            if len(buffer) < _PREFIX.size + size:
                break
            body = bytes(buffer[_PREFIX.size : _PREFIX.size + size])
            del buffer[: _PREFIX.size + size]
            if message := self._read(stream, body):
                found.append(message)
        return found

    def _read(self, stream: int, body: bytes) -> Response | None:
        """Read a message of a lease stream: one that began with a Welcome."""
        try:
            message = Response.FromString(body)
        except DecodeError:
            return None
        if message.welcome.session_id.count("-") == 4:
            self.lease_streams.add(stream)
        return message if stream in self.lease_streams else None
