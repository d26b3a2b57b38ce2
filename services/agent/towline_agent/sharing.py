"""Images that the agents of a fleet share: one builds and pushes, the others wait and pull."""

import asyncio
import logging
import random
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from towline.errors import Aborted, InvalidArgument, NotFound, TowlineError
from towline.v1 import images_pb2, leases_pb2, runs_pb2
from towline_agent.core.containers import ImageFacts
from towline_agent.core.failures import failed
from towline_agent.engine.port import Engine
from towline_agent.image_records import ImageRecords, Lease, Obtained
from towline_agent.retry import retrying
from towline_agent.stopping import beside, to_the_end

__all__ = ["Build", "Got", "SharedImages", "Wanted", "built"]

_log = logging.getLogger(__name__)
_RENEWALS_PER_TTL: Final = 3
_GIVE_UP_S: Final = 5.0
# What a container registry says of an image that was removed from it.
_GONE: Final = ("manifest unknown", "not found")

Tell = Callable[[str], None]
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


@dataclass
class _Progress:
    """What a build does now: told to the run that waits for it here, and by renewals to those elsewhere."""

    tell: Tell
    detail: str = field(default="")

    def __call__(self, detail: str) -> None:
        self.detail = detail
        self.tell(detail)


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
                        facts = await self._pull(obtained.reference, wanted.tag, tell)
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
        return await retrying(
            lambda: self._records.obtain(digest, build_id, tell),
            what="asking for an image",
            patience_s=None,
            waiting=tell,
        )

    async def _forget(self, digest: str, reference: str) -> None:
        await retrying(
            lambda: self._records.forget(digest, reference), what="forgetting an image", patience_s=None
        )

    async def _pull(self, reference: str, tag: str, tell: Tell) -> ImageFacts:
        await self._engine.pull(reference, lambda line: tell(f"pulling {reference}: {line}"))
        facts = await self._engine.image(reference)
        if facts is None:
            raise NotFound(f"{reference} was pulled and is not found", reason="IMAGE_NOT_FOUND")
        await self._engine.tag(facts.id, tag)
        # One name is enough: an image goes when its last one does.
        await self._engine.remove_image(reference)
        return facts

    async def _build(self, wanted: Wanted, lease: Lease, tell: Tell) -> ImageFacts | leases_pb2.AttemptResult:
        progress = _Progress(tell)
        async with self._given_up_unless_done(wanted.digest, lease):
            made = await beside(self._renew(wanted.digest, lease, progress), wanted.build(progress))
            if isinstance(made, leases_pb2.AttemptResult):
                await self._finish(wanted.digest, lease, made.failure if _everywhere(made) else None)
                return made
        name = f"push {wanted.tag}"
        self._background.create_task(self._hand_on(wanted, made, lease), name=name)
        return made

    async def _hand_on(self, wanted: Wanted, facts: ImageFacts, lease: Lease) -> None:
        """Push an image that was built here and record it, for the others; never fails."""
        progress = _Progress(lambda _: None)
        async with self._given_up_unless_done(wanted.digest, lease):
            try:
                image = await beside(
                    self._renew(wanted.digest, lease, progress), self._push(wanted, facts, progress)
                )
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
        try:
            await self._engine.tag(facts.id, tagged)
            digest = await self._engine.push(tagged, lambda line: tell(f"pushing the image: {line}"))
        finally:
            await to_the_end(self._engine.remove_image(tagged))
        reference = f"{self._records.repository}@{digest}"
        return images_pb2.Image(reference=reference, size_bytes=facts.size_bytes)

    async def _renew(self, digest: str, lease: Lease, progress: _Progress) -> None:
        """Keep a lease until cancelled; one that was lost is left: what is built is right all the same."""
        pause = lease.ttl.total_seconds() / _RENEWALS_PER_TTL
        while True:
            await asyncio.sleep(pause * random.uniform(0.8, 1.0))  # noqa: S311 - jitter
            try:
                await self._records.renew(digest, lease.epoch, progress.detail)
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

    What comes before them may be this node's alone, such as a git that is missing or not let in.
    """
    return result.failure.cause == runs_pb2.FAILURE_CAUSE_IMAGE_BUILD and bool(result.failure.log_tail)


def built(made: ImageFacts | leases_pb2.AttemptResult) -> Got:
    """Say of what a build came to that it was built here."""
    return (made, runs_pb2.IMAGE_OUTCOME_BUILT) if isinstance(made, ImageFacts) else made
