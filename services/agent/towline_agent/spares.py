"""A volume for /towline that is filled before a run needs it.

An engine unpacks each archive in a process of its own. Starting that takes Docker 20.10 more time than all
else that an attempt adds to the start of a container (docs/performance.md), whatever is in it. Runs without
parameters and inputs all find the same there, so theirs is filled while no run waits for it.
"""

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from random import uniform
from typing import Final, NoReturn

from towline.errors import NotFound, TowlineError, Unavailable
from towline.v1 import runs_pb2
from towline_agent import tars
from towline_agent.core.containers import (
    LABEL_SPARE,
    OUTPUTS,
    UNTOUCHED,
    Owner,
    spare_filler,
    spare_labels,
)
from towline_agent.engine.health import EngineHealth
from towline_agent.engine.port import ContainerId, Engine
from towline_agent.payload import payload
from towline_agent.stopping import to_the_end

__all__ = ["Spares"]

_log = logging.getLogger(__name__)
_LOOK_EVERY_S: Final = 60.0
# A run that goes on for longer does not wait for the next one to be filled when it ends.
_CALM_S: Final = 2.0
_PLAIN: Final = runs_pb2.LaunchSpec()


class Spares:
    """Keeps one volume ready, and removes those that no container has any more. `run` must run.

    Args:
        engine: The engine.
        owner: Whose volumes they will be.
    """

    def __init__(self, engine: Engine, owner: Owner) -> None:
        self._engine = engine
        self._owner = owner
        self._ready = ""
        """Its name; empty: there is none."""
        self._claimed: set[str] = set()
        """Those that are being filled, or that a container is being made for."""
        self._image = ""
        """One that was on the node when it was last heard of; empty: none is known."""
        self._due = asyncio.Event()

    @asynccontextmanager
    async def taken(self, spec: runs_pb2.LaunchSpec, image: str) -> AsyncIterator[str]:
        """Give the name of a volume for a run; empty: there is none that has all it is to have.

        A container that is made in the block has it from then on, and nobody else has.

        Args:
            spec: What is to run.
            image: The id of its image; the next volume is filled through a container of it.
        """
        self._image = image
        if not self._ready or payload(spec) != payload(_PLAIN):
            self._come_back()
            yield ""
            return
        volume, self._ready = self._ready, ""
        with self._claiming(volume):
            yield volume
        self._come_back()

    async def is_whole(self, container: ContainerId) -> bool:
        """Tell whether a container's /towline is as it was filled: it may have been removed just before."""
        try:
            return await self._engine.modified(container, OUTPUTS) == UNTOUCHED
        except NotFound:
            return False

    def freed(self) -> None:
        """Note that a container is gone: its volume may go too, and there is time to fill another."""
        self._due.set()

    async def run(self, health: EngineHealth) -> NoReturn:
        """Keep one ready and remove what was used, until cancelled."""
        while True:
            await health.wait_ready()
            self._due.clear()
            try:
                await self._tidy()
                if self._image and not self._ready:
                    self._ready = await self._filled()
            except Unavailable:
                await health.back()
                continue
            except TowlineError as error:
                self._image = ""  # it may be what is wrong, as it is when it was removed
                _log.info("no volume is ready for the next run: %s", error)
            pause = uniform(_LOOK_EVERY_S * 0.8, _LOOK_EVERY_S * 1.2)  # noqa: S311 - jitter
            try:
                async with asyncio.timeout(pause):
                    await self._due.wait()
            except TimeoutError:
                continue

    def _come_back(self) -> None:
        asyncio.get_running_loop().call_later(_CALM_S, self._due.set)

    async def _tidy(self) -> None:
        labels = {LABEL_SPARE: self._owner.instance_id}
        for container in await self._engine.containers(labels):  # none is being filled now
            await self._engine.remove(container.id)
        unused = {volume.name for volume in await self._engine.volumes(labels, unused=True)}
        # Asked for after them: a volume is taken before a container has it.
        for volume in unused - self._claimed - {self._ready}:
            await self._engine.remove_volume(volume)
        if self._ready not in unused:  # who removes what nobody uses takes it too
            self._ready = ""

    async def _filled(self) -> str:
        volume = f"towline-spare-{uuid.uuid4().hex}"
        with self._claiming(volume):
            await to_the_end(self._engine.create_volume(volume, spare_labels(self._owner)))
            config = spare_filler(self._image, volume, self._owner)
            container = await to_the_end(self._engine.create(f"{volume}-filler", config))
            await self._engine.put_archive(container, "/towline", tars.stream(payload(_PLAIN)))
            await self._engine.remove(container)
        return volume

    @contextmanager
    def _claiming(self, volume: str) -> Iterator[None]:
        self._claimed.add(volume)
        try:
            yield
        finally:
            self._claimed.discard(volume)
