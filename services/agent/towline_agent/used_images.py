"""When this agent used which image last, over its starts, and which ones it pulled.

DATA_DIR/images/<hex digits of the id>.json is there for each image that the agent may remove one day: those
that it made or pulled. The time of the file is when the image was used last; of one that was pulled it has
the names that it got by that.
"""

import asyncio
import json
import logging
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, cast

from towline.v1 import leases_pb2, runs_pb2
from towline_agent.builder import BuildLog, ImageBuilder, Ready
from towline_agent.core.containers import ImageFacts
from towline_agent.core.transfers import Transfer
from towline_agent.engine.port import ContainerId, Engine
from towline_agent.telling import Tell

__all__ = ["PreparingImages", "UsedImages", "noting"]

_log = logging.getLogger(__name__)
_PREFIX: Final = "sha256:"


class UsedImages:
    """What is known of images that the agent made, pulled or uses.

    A failure to write costs an image no more than its place among those that go.

    Args:
        folder: Where the records are; made if need be.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self._folder = folder
        self._names: dict[str, frozenset[str]] = {}
        self._used_at: dict[str, float] = {}
        self._preparing: list[set[str]] = []
        self._removing: dict[str, asyncio.Event] = {}
        self.removals = 0
        """How many removals have ended, or at least been tried."""
        for file in folder.glob("*.json"):
            with suppress(OSError, ValueError, TypeError, KeyError):  # one that cannot be read is nobody's
                names = frozenset(json.loads(file.read_text())["names"])
                self._names[_PREFIX + file.stem] = names
                self._used_at[_PREFIX + file.stem] = file.stat().st_mtime

    @property
    def names(self) -> Mapping[str, frozenset[str]]:
        """Return the images on record by their ids, with the names that pulls gave them; made ones: none."""
        return self._names

    def used_at(self, image: str) -> float:
        """Return when an image was used last, in seconds since 1970; infinitely long ago: nobody knows."""
        return self._used_at.get(image, float("-inf"))

    def used(self, image: str) -> None:
        """Note that an image is used now."""
        now = self._used_at[image] = time.time()
        for images in self._preparing:
            images.add(image)
        if image in self._names:
            with suppress(OSError):
                os.utime(self._file(image), (now, now))

    def record(self, image: str, names: Collection[str] = (), *, used_at: float | None = None) -> None:
        """Note an image that the agent made, or pulled by these names."""
        known = self._names.get(image)
        self._names[image] = frozenset(names) | (known or frozenset())
        self._used_at[image] = max(self.used_at(image), time.time() if used_at is None else used_at)
        if known == self._names[image]:
            return
        file = self._file(image)
        try:
            partial = file.with_suffix(".partial")
            partial.write_text(json.dumps({"names": sorted(self._names[image])}))
            partial.replace(file)
            os.utime(file, (self._used_at[image], self._used_at[image]))
        except OSError as error:
            _log.warning("%s is not on record and may stay for ever: %s", image, error)

    def forget(self, image: str) -> None:
        """Drop the record of an image that is gone."""
        self._names.pop(image, None)
        self._used_at.pop(image, None)
        with suppress(OSError):
            self._file(image).unlink(missing_ok=True)

    @contextmanager
    def preparing(self) -> Iterator[None]:
        """Keep all images that are used within the block until it ends."""
        images: set[str] = set()
        self._preparing.append(images)
        try:
            yield
        finally:
            # Not by what is in it: another one may have used the same.
            self._preparing = [other for other in self._preparing if other is not images]

    def is_needed(self, image: str) -> bool:
        """Tell whether an image must stay for something that is being prepared, or is being removed."""
        return image in self._removing or any(image in images for images in self._preparing)

    @contextmanager
    def removing(self, image: str) -> Iterator[None]:
        """Have those who look for an image wait until it is gone, or stays."""
        over = self._removing[image] = asyncio.Event()
        try:
            yield
        finally:
            del self._removing[image]
            self.removals += 1
            over.set()

    async def settled(self, image: str) -> None:
        """Wait while an image is being removed."""
        if (over := self._removing.get(image)) is not None:
            await over.wait()

    def _file(self, image: str) -> Path:
        return self._folder / f"{image.removeprefix(_PREFIX)}.json"


def noting(engine: Engine, used: UsedImages) -> Engine:
    """Return an engine that notes which images are used, made and pulled through it."""
    # It is one: what it does not do itself, the engine does.
    return cast("Engine", _Noting(engine, used))


class PreparingImages:
    """An ImageBuilder; what it uses for an image stays until that is there.

    Args:
        images: Gets the images.
        used: Knows what is used.
    """

    def __init__(self, images: ImageBuilder, used: UsedImages) -> None:
        self._images = images
        self._used = used

    async def ensure(
        self, spec: runs_pb2.LaunchSpec, log: BuildLog, tell: Tell
    ) -> Ready | leases_pb2.AttemptResult:
        """See ImageBuilder."""
        with self._used.preparing():
            return await self._images.ensure(spec, log, tell)


class _Noting:
    def __init__(self, engine: Engine, used: UsedImages) -> None:
        self._engine = engine
        self._used = used

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    async def image(self, reference: str) -> ImageFacts | None:
        found, removals = None, -1
        # What was found may have gone since, even before its answer was read; nothing is removed that was
        # used a moment ago.
        while removals != self._used.removals:
            removals = self._used.removals
            found = await self._engine.image(reference)
            if found is not None:
                await self._used.settled(found.id)
        if found is not None:
            self._used.used(found.id)
        return found

    async def pull(self, reference: str, progress: Callable[[Transfer], None]) -> None:
        before = await self._engine.image(reference)
        await self._engine.pull(reference, progress)
        after = await self._engine.image(reference)
        if after is None:
            return
        if before is None or before.id != after.id:
            self._used.record(after.id, [reference])
        self._used.used(after.id)

    async def commit(self, container: ContainerId, reference: str, config: Mapping[str, Any]) -> str:
        made = await self._engine.commit(container, reference, config)
        self._used.record(made)
        # Whoever made it looks for it only once the container is gone: until then it must not make room.
        self._used.used(made)
        return made
