"""Room on the node's disks: what can be got again goes in time, and no runs come where that is not enough."""

import asyncio
import heapq
import logging
import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import uniform
from typing import Final, NoReturn

from towline.errors import TowlineError, Unavailable
from towline_agent.core import space
from towline_agent.core.space import Disk
from towline_agent.engine.health import EngineHealth

__all__ = ["Caches", "Disks", "Hygiene", "Leaving"]

_log = logging.getLogger(__name__)
_LOOK_EVERY_S: Final = 10.0
_TIDY_EVERY_S: Final = 60.0


@dataclass(frozen=True)
class Leaving:
    """Something that may go to make room."""

    used_at: float
    """When it was used last, in seconds since 1970."""
    go: Callable[[], Awaitable[bool]]
    """Removes it, unless it is in use by now; tells whether it did."""


@dataclass(frozen=True)
class Caches:
    """What is kept on the node and can be got again."""

    tidy: Sequence[Callable[[], Awaitable[None]]]
    """Each keeps one of them to its budget."""
    leaving: Sequence[Callable[[], Awaitable[Sequence[Leaving]]]]
    """Each gives all of one that may go, what was used longest ago first."""
    last: Callable[[], Awaitable[None]]
    """Removes what takes longest to get again, where all else was not enough."""


class Disks:
    """The file systems that an agent and its engine write to.

    Args:
        data_dir: The agent's folder.
        engine_url: Where its engine is.
        roots: Asks that where it keeps its data.
    """

    def __init__(
        self, data_dir: Path, engine_url: str, roots: Callable[[], Awaitable[Sequence[str]]]
    ) -> None:
        self._data_dir = data_dir
        self._here = engine_url.startswith("unix:")
        self._roots = roots
        self._told = False

    async def look(self) -> list[Disk]:
        """Return each of them once."""
        return await asyncio.to_thread(self._measure, await self._roots())

    def _measure(self, roots: Sequence[str]) -> list[Disk]:
        # Not Path.is_dir: that raises where a folder above it is closed to the agent's user.
        seen = [root for root in roots if self._here and os.path.isdir(root)]  # noqa: PTH112
        if not seen and not self._told:
            self._told = True
            _log.warning(
                "nobody watches the disk of the Docker Engine: the agent does not see %s; "
                "one in a container needs that folder at the same place",
                ", ".join(roots),
            )
        places = [(root, "its Docker Engine keeps its data") for root in seen]
        found: dict[int, Disk] = {}
        own = str(self._data_dir)
        for path, holds in [*places, (own, "it keeps its own data")]:
            has = os.statvfs(path)
            free, total = has.f_bavail * has.f_frsize, has.f_blocks * has.f_frsize
            # Where the engine's is not seen, the agent's own may be the same.
            disk = Disk(path, holds, free, total, clears=path != own or not seen)
            found.setdefault(Path(path).stat().st_dev, disk)
        return list(found.values())


class Hygiene:
    """Keeps caches within their budgets and disks from being full. `run` must run.

    Args:
        disks: What there is.
        keep_free: Bytes to keep free on each, see core.space.floor.
        caches: What can go.
        changed: Told why new runs have no room, empty: they have, whenever that changes.
    """

    def __init__(
        self,
        disks: Disks,
        keep_free: int | None,
        caches: Caches,
        changed: Callable[[str], None],
    ) -> None:
        self._disks = disks
        self._keep_free = keep_free
        self._caches = caches
        self._changed = changed
        self._lacking = ""

    async def run(self, health: EngineHealth) -> None:
        """Look after them, now, and the disks every ten seconds and budgets every minute; until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(_repeat(health, _LOOK_EVERY_S, self.look))
            group.create_task(_repeat(health, _TIDY_EVERY_S, self._tidy))

    async def _tidy(self) -> None:
        for tidy in self._caches.tidy:
            await tidy()

    async def look(self) -> None:
        """Make room where it lacks, and tell whether new runs have some."""
        disks = await self._disks.look()
        if space.shortage(disks, self._keep_free):
            disks = await self._make_room()
        lacking = space.lacking(disks, self._keep_free, self._lacking)
        if lacking != self._lacking:
            _log.warning("no runs are taken: %s", lacking) if lacking else _log.info("runs are taken again")
            self._lacking = lacking
            self._changed(lacking)
        if lacking and space.shortage(disks, self._keep_free):
            await self._caches.last()

    async def _make_room(self) -> list[Disk]:
        going = [await leaving() for leaving in self._caches.leaving]
        for one in heapq.merge(*going, key=lambda one: one.used_at):
            await one.go()
            disks = await self._disks.look()
            if not space.shortage(disks, self._keep_free):
                return disks
        return await self._disks.look()


async def _repeat(health: EngineHealth, every_s: float, work: Callable[[], Awaitable[None]]) -> NoReturn:
    while True:
        await health.wait_ready()
        try:
            await work()
        except Unavailable:
            await health.back()
            continue
        except (TowlineError, OSError) as error:
            _log.warning("the disks are not looked after for now: %s", error)
        await asyncio.sleep(uniform(every_s * 0.8, every_s * 1.2))  # noqa: S311 - jitter
