"""A connection that breaks: a TCP proxy that cuts what passes through it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress


class CuttingProxy:
    """Passes bytes on; each connection ends after the next number of `cuts`, counted in both directions.

    When `cuts` is empty, connections live on. `upstream` may become another one, for connections to come;
    while nobody listens there, they end at once. `sent` and `received` count bytes to and from it.
    """

    def __init__(self, upstream: str, cuts: list[int]) -> None:
        self.address = ""
        self.cuts = cuts
        self.broken = 0
        self.sent = 0
        self.received = 0
        self.upstream = upstream
        self._ends: set[asyncio.StreamWriter] = set()
        self._handlers: set[asyncio.Task[None] | None] = set()

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handler = asyncio.current_task()
        self._handlers.add(handler)
        host, _, port = self.upstream.rpartition(":")
        try:
            there, here = await asyncio.open_connection(host, int(port))
        except ConnectionError:
            writer.close()
            self._handlers.discard(handler)
            return
        ends = {here, writer}
        self._ends |= ends
        left = self.cuts.pop(0) if self.cuts else None

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            nonlocal left
            with suppress(ConnectionError):
                while data := await source.read(65536):
                    if left is not None:
                        if left > 0:  # else the other direction has broken it already
                            left -= len(data)
                            self.broken += left <= 0
                        if left <= 0:
                            break
                    if sink is here:
                        self.sent += len(data)
                    else:
                        self.received += len(data)
                    sink.write(data)
                    await sink.drain()
            for end in ends:
                end.close()

        async with asyncio.TaskGroup() as group:
            group.create_task(pump(reader, here))
            group.create_task(pump(there, writer))
        for end in ends:
            with suppress(ConnectionError):
                await end.wait_closed()
        self._ends -= ends
        self._handlers.discard(handler)

    async def close(self) -> None:
        for end in self._ends:
            end.close()
        while handlers := self._handlers - {None}:
            await asyncio.wait(handlers)


@asynccontextmanager
async def cutting_proxy(upstream: str, cuts: list[int]) -> AsyncIterator[CuttingProxy]:
    """Listen on a free port in front of `upstream`."""
    proxy = CuttingProxy(upstream, list(cuts))
    server = await asyncio.start_server(proxy.connected, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    proxy.address = f"{host}:{port}"
    try:
        yield proxy
    finally:
        server.close()
        await proxy.close()
