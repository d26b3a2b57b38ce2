"""The machine's Docker Engine behind a socket of a test's own, which acts as a certain request passes."""

import asyncio
import re
from collections.abc import Callable
from pathlib import Path


class WatchedEngine:
    """Passes all on to the engine; made for one agent.

    Args:
        path: Of the socket.
    """

    def __init__(self, path: Path) -> None:
        self.url = f"unix://{path}"
        self._path = path
        self._pattern: re.Pattern[bytes] | None = None
        self._left = 0
        self._answered = False
        self._then: Callable[[], object] = bool
        self.done = asyncio.Event()
        """Set when it has acted."""

    async def start(self) -> asyncio.Server:
        return await asyncio.start_unix_server(self._connected, self._path)

    def act(
        self, pattern: bytes, then: Callable[[], object], *, nth: int = 1, answered: bool = False
    ) -> None:
        """Call `then` once, as the n-th request comes that matches: when it is passed on, or is answered."""
        self._pattern, self._then, self._left, self._answered = re.compile(pattern), then, nth, answered
        self.done = asyncio.Event()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, away = await asyncio.open_unix_connection("/var/run/docker.sock")
        waits = asyncio.Event()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._requests(reader, away, waits))
                group.create_task(self._answers(there, writer, waits))
        finally:
            for each in (writer, away):
                each.transport.abort()

    async def _requests(
        self, source: asyncio.StreamReader, target: asyncio.StreamWriter, waits: asyncio.Event
    ) -> None:
        try:
            while data := await source.read(65536):
                target.write(data)
                await target.drain()
                if self._pattern and self._pattern.search(data):
                    self._left -= 1
                    if self._left == 0 and self._answered:
                        waits.set()
                    elif self._left == 0:
                        self._act()
            target.write_eof()
        except OSError:  # the other side is gone
            target.transport.abort()
        # As with the engine itself: an agent that is gone wants no answer.
        target.transport.abort()

    async def _answers(
        self, source: asyncio.StreamReader, target: asyncio.StreamWriter, waits: asyncio.Event
    ) -> None:
        try:
            while data := await source.read(65536):
                if waits.is_set():
                    waits.clear()
                    self._act()
                target.write(data)
                await target.drain()
        except OSError:
            target.transport.abort()

    def _act(self) -> None:
        self._pattern = None
        self._then()
        self.done.set()
