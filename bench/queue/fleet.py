"""A share of the fleet, in a process of its own: arguments: QUEUE_ADDRESS AGENTS"""

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

from bench.queue.fleet_member import Member, Tally
from bench.queue.sides import pause

QUEUE: Final = "queues/default"
TOGETHER: Final = 32
"""Sessions that open at once, the first time."""
SOON_S: Final = 0.05
FAMILIES: Final = (socket.AF_INET, socket.AF_INET6)


class Fleet:
    """Agents that do nothing but keep their sessions up."""

    def __init__(self, members: list[Member], port: int, tally: Tally, group: asyncio.TaskGroup) -> None:
        self._members = members
        self._port = port
        self._tally = tally
        self._group = group

    async def open(self, within_s: float) -> dict[str, Any]:
        """Open all sessions; give the heartbeat `interval_s`."""
        async with asyncio.timeout(within_s):
            for start in range(0, len(self._members), TOGETHER):
                some = self._members[start : start + TOGETHER]
                for member in some:
                    self._group.create_task(member.live())
                while not all(member.welcomed_at for member in some):
                    await pause()
        self._group.create_task(self._beat())
        return {"interval_s": self._tally.interval_s}

    async def holding(self) -> dict[str, Any]:
        """Give the number of `running` attempts that the agents hold."""
        return {"running": sum(member.running for member in self._members)}

    async def storm(self, within_s: float) -> dict[str, Any]:
        """Break all connections; give when it `began` and `ended`, and how many came back.

        `began` and `ended` are by the monotonic clock of the machine; the last Welcome ends it.
        """
        self._tally.errors.clear()
        began = time.monotonic()
        broken = self._break_connections()
        until = began + within_s
        while not self._all_back(began) and time.monotonic() < until:
            await pause()
        back = [member.welcomed_at for member in self._members if member.welcomed_at > began]
        return {
            "began": began,
            "ended": max(back, default=began),
            "broken": broken,
            "back": len(back),
            "lost": self._tally.lost,
            "errors": dict(self._tally.errors),
        }

    async def finish(self, within_s: float) -> dict[str, Any]:
        """Finish what is held; give how many results were `committed`."""
        holders = [member for member in self._members if member.held]
        for member in holders:
            await member.finish()
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while not all(member.committed for member in holders):
                    await pause()
        return {"committed": sum(member.committed for member in holders)}

    def _all_back(self, since: float) -> bool:
        return all(member.welcomed_at > since for member in self._members)

    def _break_connections(self) -> int:
        """Cut every TCP connection to the service beneath gRPC; return how many they were."""
        broken = 0
        for descriptor in list(Path("/proc/self/fd").iterdir()):
            # What is no socket, or not connected, is an OSError.
            with suppress(OSError), socket.socket(fileno=os.dup(int(descriptor.name))) as one:
                if one.family in FAMILIES and one.getpeername()[1] == self._port:
                    one.shutdown(socket.SHUT_RDWR)
                    broken += 1
        return broken

    async def _beat(self) -> None:
        while True:
            now = time.monotonic()
            for member in self._members:
                if member.beat_at <= now:
                    await member.beat()
            await asyncio.sleep(SOON_S)


@asynccontextmanager
async def opened(address: str, agents: str) -> AsyncIterator[Fleet]:
    """Make the agents; they connect when asked to."""
    tally = Tally()
    members = [Member(address, QUEUE, tally) for _ in range(int(agents))]
    async with asyncio.TaskGroup() as group:
        yield Fleet(members, int(address.rpartition(":")[2]), tally, group)
        os._exit(0)  # thousands of connections end with the process, not one by one
