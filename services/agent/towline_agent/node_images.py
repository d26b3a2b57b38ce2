"""The one way to an image that is named by its content: it is here, or on its way, or is got once."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Final
from weakref import WeakValueDictionary

from towline.v1 import leases_pb2, runs_pb2
from towline_agent.core.containers import ImageFacts
from towline_agent.core.failures import failed
from towline_agent.engine.port import Engine
from towline_agent.sharing import SharedImages, Wanted, built
from towline_agent.telling import Tell

__all__ = ["NodeImages", "Ready"]

_VANISHED: Final = "Image {} is gone right after it was built; was it removed at the same moment?"


@dataclass(frozen=True)
class Ready:
    """An image that is on the node."""

    facts: ImageFacts
    outcome: runs_pb2.ImageOutcome.ValueType


class NodeImages:
    """Images of this node by their content keys, each got once, however many ask.

    Args:
        engine: The engine.
        shared: Where a fleet keeps its images; None: each node builds its own.
    """

    def __init__(self, engine: Engine, shared: SharedImages | None = None) -> None:
        self._engine = engine
        self._shared = shared
        self._getting: WeakValueDictionary[str, _Getting] = WeakValueDictionary()

    async def get(self, wanted: Wanted, tell: Tell) -> Ready | leases_pb2.AttemptResult:
        """Bring an image onto this node, or return why it cannot be had.

        Raises:
            Unavailable: The engine went away; trying again is safe.
        """
        if found := await self._engine.image(wanted.tag):
            return Ready(found, runs_pb2.IMAGE_OUTCOME_REUSED)
        async with self._alone(wanted.tag, tell):
            if found := await self._engine.image(wanted.tag):
                return Ready(found, runs_pb2.IMAGE_OUTCOME_REUSED)
            if self._shared is None:
                got = built(await wanted.build(tell))
            else:
                got = await self._shared.get(wanted, tell)
        return got if isinstance(got, leases_pb2.AttemptResult) else Ready(*got)

    async def made(self, tag: str) -> ImageFacts | leases_pb2.AttemptResult:
        """Return an image that was built a moment ago, or the result of the attempt if it is gone again."""
        facts = await self._engine.image(tag)
        return facts or failed(runs_pb2.FAILURE_CAUSE_CONTROL_PLANE, _VANISHED.format(tag))

    @asynccontextmanager
    async def _alone(self, tag: str, tell: Tell) -> AsyncIterator[None]:
        """Let one build of a tag run at a time; who waited finds the image there."""
        getting = self._getting.setdefault(tag, _Getting())
        if getting.lock.locked():
            tell("waiting for another run that builds the same image")
            with tell.step("wait for another run's build"), getting.followed_by(tell):
                await getting.lock.acquire()
        else:
            await getting.lock.acquire()
        try:
            with tell.heard_by(getting.hear):
                yield
        finally:
            getting.lock.release()


class _Getting:
    """An image on its way: who gets it has the lock, the others are told how it goes."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self._followers: list[Tell] = []

    @contextmanager
    def followed_by(self, tell: Tell) -> Iterator[None]:
        """Tell one who waits how it goes, for the length of the block."""
        self._followers.append(tell)
        try:
            yield
        finally:
            self._followers.remove(tell)

    def hear(self, line: str) -> None:
        """Take what is done to get the image."""
        for tell in self._followers:
            tell.often(f"waiting for another run that builds the same image: {line}")
