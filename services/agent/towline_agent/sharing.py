"""Images that the agents of a fleet share: one builds and pushes, the others wait and pull."""

import asyncio
import logging
import random
import time
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from towline.errors import Aborted, InvalidArgument, NotFound, TowlineError
from towline.v1 import images_pb2, leases_pb2, runs_pb2
from towline_agent.core.containers import ImageFacts
from towline_agent.core.failures import failed
from towline_agent.engine.port import Engine
from towline_agent.image_records import ImageRecords, Lease, Obtained
from towline_agent.pulls import pulled
from towline_agent.retry import retrying
from towline_agent.stopping import beside, to_the_end
from towline_agent.telling import Tell

__all__ = ["Build", "Got", "SharedImages", "Wanted", "built"]

_log = logging.getLogger(__name__)
_RENEWALS_PER_TTL: Final = 3
# How often news are looked at, and the part of the time between renewals after which a look renews anyway.
_NEWS_S: Final = 2.0
_SOON: Final = 0.8
_GIVE_UP_S: Final = 5.0
_PULLS: Final = 5
# How programs say that a disk is full.
_OF_THE_NODE: Final = ("no space left on device", "disk quota exceeded")
# What a container registry says of an image that was removed from it.
_GONE: Final = ("manifest unknown", "not found")

Got = tuple[ImageFacts, runs_pb2.ImageOutcome.ValueType] | leases_pb2.AttemptResult
"""An image on this node and how it got there, or why there can be none."""
Build = Callable[[Tell], Coroutine[Any, Any, ImageFacts | leases_pb2.AttemptResult]]


@dataclass(frozen=True)
class Wanted:
    """An image that is not on this node."""

    digest: str
    """Of its content key: "sha256:" + 64 hex digits."""
    tag: str
    """What it is called on the node, "name:tag"."""
    build: Build
    """Makes it here, under that tag."""


class SharedImages:
    """Gets images from where their fleet keeps them, or builds them for it.

    That others can use an image is never worth a run: where the container registry refuses, or does not
    answer, the image is built here for this node alone.

    Args:
        engine: The engine of this node.
        records: Says who has or builds an image.
        background: Has the pushes, for which no run waits.
    """

    def __init__(self, engine: Engine, records: ImageRecords, background: asyncio.TaskGroup) -> None:
        self._engine = engine
        self._records = records
        self._background = background
        self._pushing: set[str] = set()

    @property
    def pushing(self) -> frozenset[str]:
        """Return the names that images have while they are pushed now."""
        return frozenset(self._pushing)

    async def get(self, wanted: Wanted, tell: Tell) -> Got:
        """Bring an image onto this node and return it with how that was done, or why it cannot be had.

        Raises:
            Unavailable: The engine went away; trying again is safe.
        """
        build_id, gone = uuid.uuid4(), ""
        while True:
            try:
                if gone:
                    await self._forget(wanted.digest, gone)
                obtained = await self._obtain(wanted.digest, build_id, tell)
            except TowlineError as error:
                return await self._alone(wanted, f"nobody can tell who has the image ({error.message})", tell)
            match obtained:
                case Lease():
                    return built(await self._build(wanted, obtained, tell))
                case runs_pb2.Failure():
                    return failed(obtained.cause, obtained.message, obtained.log_tail)
                case images_pb2.Image():
                    try:
                        facts = await self._pull(obtained, wanted.tag, tell)
                    except (NotFound, InvalidArgument) as error:
                        if not any(word in error.message for word in _GONE):
                            why = f"{obtained.reference} cannot be pulled ({error.message})"
                            return await self._alone(wanted, why, tell)
                        _log.warning("%s is gone from its registry: %s", obtained.reference, error.message)
                        gone = obtained.reference
                    else:
                        return facts, runs_pb2.IMAGE_OUTCOME_PULLED

    async def _alone(self, wanted: Wanted, why: str, tell: Tell) -> Got:
        """Build an image for this node only."""
        _log.warning("%s is built for this node alone: %s", wanted.tag, why)
        tell(f"{why}: building it here")
        return built(await wanted.build(tell))

    async def _obtain(self, digest: str, build_id: uuid.UUID, tell: Tell) -> Obtained:
        with tell.step("") as step:

            def told(how_it_goes: str) -> None:
                step.name = "wait for another agent's build"
                tell.often(how_it_goes)

            return await retrying(
                lambda: self._records.obtain(digest, build_id, told),
                what="asking for an image",
                patience_s=None,
                waiting=tell,
            )

    async def _forget(self, digest: str, reference: str) -> None:
        await retrying(
            lambda: self._records.forget(digest, reference), what="forgetting an image", patience_s=None
        )

    async def _pull(self, image: images_pb2.Image, tag: str, tell: Tell) -> ImageFacts:
        reference = image.reference
        for _ in range(_PULLS):
            await pulled(self._engine, reference, tell, builder=image.builder)
            if facts := await self._engine.image(reference):
                await self._engine.tag(facts.id, tag)
                # One name is enough: an image goes when its last one does.
                await self._engine.remove_image(reference)
                return facts
            # Another agent on this engine has just done the same and taken the name away.
        raise NotFound(f"{reference} was pulled and is not found", reason="IMAGE_NOT_FOUND")

    async def _build(self, wanted: Wanted, lease: Lease, tell: Tell) -> ImageFacts | leases_pb2.AttemptResult:
        async with self._given_up_unless_done(wanted.digest, lease):
            made = await beside(self._renew(wanted.digest, lease, tell), wanted.build(tell))
            if isinstance(made, leases_pb2.AttemptResult):
                await self._finish(wanted.digest, lease, made.failure if _everywhere(made) else None)
                return made
        name = f"push {wanted.tag}"
        self._background.create_task(self._hand_on(wanted, made, lease), name=name)
        return made

    async def _hand_on(self, wanted: Wanted, facts: ImageFacts, lease: Lease) -> None:
        """Push an image that was built here and record it, for the others; never fails."""
        tell = Tell(lambda _: None)  # no run waits; those elsewhere are told by renewals
        async with self._given_up_unless_done(wanted.digest, lease):
            try:
                image = await beside(self._renew(wanted.digest, lease, tell), self._push(wanted, facts, tell))
            except TowlineError as error:
                _log.warning("%s is not pushed, other nodes build it again: %s", wanted.tag, error.message)
                image = None
            except Exception:  # nobody waits for it, and the agent must not end because of it
                _log.exception("%s is not pushed, other nodes build it again", wanted.tag)
                image = None
            await self._finish(wanted.digest, lease, image)

    @asynccontextmanager
    async def _given_up_unless_done(self, digest: str, lease: Lease) -> AsyncIterator[None]:
        """End a lease when the block is broken off: whoever waits for the build goes on with it at once."""
        try:
            yield
        except BaseException:
            await to_the_end(self._finish(digest, lease, None))
            raise

    async def _push(self, wanted: Wanted, facts: ImageFacts, tell: Tell) -> images_pb2.Image:
        """Push an image; InvalidArgument: its registry does not take it."""
        tagged = f"{self._records.repository}:{wanted.digest.removeprefix('sha256:')}"
        self._pushing.add(tagged)
        try:
            await self._engine.tag(facts.id, tagged)
            with tell.step("push"):
                digest = await self._engine.push(tagged, lambda how_far: tell.often(f"pushing it: {how_far}"))
        finally:
            await to_the_end(self._engine.remove_image(tagged))
            self._pushing.discard(tagged)
        reference = f"{self._records.repository}@{digest}"
        return images_pb2.Image(reference=reference, size_bytes=facts.size_bytes)

    async def _renew(self, digest: str, lease: Lease, tell: Tell) -> None:
        """Keep a lease until cancelled; one that was lost is left: what is built is right all the same.

        What is done now goes with it, so that news are told sooner than the lease needs it.
        """
        pause = lease.ttl.total_seconds() / _RENEWALS_PER_TTL
        told, told_at = "", time.monotonic()
        while True:
            await asyncio.sleep(min(pause, _NEWS_S) * random.uniform(0.8, 1.0))  # noqa: S311 - jitter
            if tell.said == told and time.monotonic() - told_at < pause * _SOON:
                continue
            told, told_at = tell.said, time.monotonic()
            try:
                await self._records.renew(digest, lease.epoch, told)
            except Aborted:
                _log.warning("the build lease of %s went to another agent", digest)
                return
            except TowlineError as error:  # whatever it is: the build is not worth less for it
                _log.warning("the build lease of %s is not renewed: %s", digest, error)

    async def _finish(
        self, digest: str, lease: Lease, outcome: images_pb2.Image | runs_pb2.Failure | None
    ) -> None:
        try:
            await retrying(
                lambda: self._records.finish(digest, lease.epoch, outcome),
                what="recording an image",
                patience_s=_GIVE_UP_S,
            )
        except TowlineError as error:  # the lease ends by itself, and somebody builds again
            _log.warning("the build of %s is not recorded: %s", digest, error)


def _everywhere(result: leases_pb2.AttemptResult) -> bool:
    """Tell whether a build that failed fails on other nodes, too: only the installation's own words say so.

    What comes before them may be this node's alone, such as a git that is missing or not let in. So is a
    disk that is full.
    """
    said = result.failure.log_tail.lower()
    ours = any(words in said for words in _OF_THE_NODE)
    return result.failure.cause == runs_pb2.FAILURE_CAUSE_IMAGE_BUILD and bool(said) and not ours


def built(made: ImageFacts | leases_pb2.AttemptResult) -> Got:
    """Say of what a build came to that it was built here."""
    return (made, runs_pb2.IMAGE_OUTCOME_BUILT) if isinstance(made, ImageFacts) else made
