"""Images that the agents of a fleet share: one builds and pushes, the others wait and pull."""

import asyncio
import logging
import random
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from towline.errors import Aborted, DeadlineExceeded, InvalidArgument, NotFound, TowlineError, Unavailable
from towline.v1 import images_pb2, leases_pb2, runs_pb2
from towline_agent.core.containers import ImageFacts
from towline_agent.core.failures import failed
from towline_agent.engine.port import Engine
from towline_agent.image_records import ImageRecords, Lease
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
Build = Callable[[Tell], Awaitable[ImageFacts | leases_pb2.AttemptResult]]


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
    """

    def __init__(self, engine: Engine, records: ImageRecords) -> None:
        self._engine = engine
        self._records = records

    async def get(self, wanted: Wanted, tell: Tell) -> Got:
        """Bring an image onto this node and return it with how that was done, or why it cannot be had.

        Raises:
            Unavailable: The engine went away; trying again is safe.
        """
        build_id = uuid.uuid4()
        while True:
            obtained = await retrying(
                lambda: self._records.obtain(wanted.digest, build_id, tell),
                what="asking for an image",
                patience_s=None,
                waiting=tell,
            )
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
                            tell(f"{obtained.reference} cannot be pulled ({error.message}): building it here")
                            return built(await wanted.build(tell))
                        _log.warning("%s is gone from its registry: %s", obtained.reference, error.message)
                        await self._records.forget(wanted.digest, obtained.reference)
                    else:
                        return facts, runs_pb2.IMAGE_OUTCOME_PULLED

    async def _pull(self, reference: str, tag: str, tell: Tell) -> ImageFacts:
        await self._engine.pull(reference, lambda line: tell(f"pulling {reference}: {line}"))
        facts = await self._engine.image(reference)
        if facts is None:
            raise NotFound(f"{reference} was pulled and is not found", reason="IMAGE_NOT_FOUND")
        await self._engine.tag(facts.id, tag)
        return facts

    async def _build(self, wanted: Wanted, lease: Lease, tell: Tell) -> ImageFacts | leases_pb2.AttemptResult:
        progress = _Progress(tell)
        try:
            return await beside(
                self._renew(wanted.digest, lease, progress), self._build_and_push(wanted, lease, progress)
            )
        except BaseException:
            # Also where the run was cancelled: whoever waits for this build goes on with it at once.
            await to_the_end(self._finish(wanted.digest, lease, None))
            raise

    async def _build_and_push(
        self, wanted: Wanted, lease: Lease, progress: _Progress
    ) -> ImageFacts | leases_pb2.AttemptResult:
        made = await wanted.build(progress)
        if isinstance(made, leases_pb2.AttemptResult):
            everywhere = made.failure.cause == runs_pb2.FAILURE_CAUSE_IMAGE_BUILD
            await self._finish(wanted.digest, lease, made.failure if everywhere else None)
            return made
        await self._finish(wanted.digest, lease, await self._push(wanted, made, progress))
        return made

    async def _push(self, wanted: Wanted, facts: ImageFacts, tell: Tell) -> images_pb2.Image | None:
        """Push an image; None: its registry does not take it."""
        tagged = f"{self._records.repository}:{wanted.digest.removeprefix('sha256:')}"
        await self._engine.tag(facts.id, tagged)
        try:
            digest = await self._engine.push(tagged, lambda line: tell(f"pushing the image: {line}"))
        except InvalidArgument as error:
            _log.warning("%s cannot be pushed, other nodes build it again: %s", tagged, error.message)
            return None
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
            except (Unavailable, DeadlineExceeded) as error:
                _log.warning("the build lease of %s is not renewed: %s", digest, error)
            except Aborted:
                _log.warning("the build lease of %s went to another agent", digest)
                return

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


def built(made: ImageFacts | leases_pb2.AttemptResult) -> Got:
    """Say of what a build came to that it was built here."""
    return (made, runs_pb2.IMAGE_OUTCOME_BUILT) if isinstance(made, ImageFacts) else made
