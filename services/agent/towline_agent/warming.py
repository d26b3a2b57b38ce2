"""Images that a node has before a run wants them: base images, and others that its operator names."""

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Sequence
from random import random, uniform
from typing import Final, NoReturn

from towline.errors import TowlineError
from towline.v1 import docker_pb2, jobs_pb2, leases_pb2, runs_pb2
from towline_agent.base_images import BaseImages
from towline_agent.builder import BuildLog, ImageBuilder, Ready
from towline_agent.core.backoff import Backoff
from towline_agent.engine.health import EngineHealth
from towline_agent.telling import Tell

__all__ = ["RunsFirst", "Warming"]

_log = logging.getLogger(__name__)
_EVERY_S: Final = 24 * 3600.0
_FIRST_PAUSE_S: Final = 60.0
_LONGEST_PAUSE_S: Final = 3600.0


class RunsFirst:
    """An ImageBuilder that tells when nobody waits for an image of it.

    Args:
        images: Gets the images.
    """

    def __init__(self, images: ImageBuilder) -> None:
        self._images = images
        self._waiting = 0
        self.idle = asyncio.Event()
        self.idle.set()

    async def ensure(
        self, spec: runs_pb2.LaunchSpec, log: BuildLog, tell: Tell
    ) -> Ready | leases_pb2.AttemptResult:
        """See ImageBuilder."""
        self._waiting += 1
        self.idle.clear()
        try:
            return await self._images.ensure(spec, log, tell)
        finally:
            self._waiting -= 1
            if not self._waiting:
                self.idle.set()


class Warming:
    """Pulls what is to be ready and is not here, one image after the other, when the agent starts and daily.

    What is on the node stays as it is: another base image would make all environments anew.

    Args:
        bases: Finds and pulls.
        pythons: Versions of Python, "X.Y", whose base images are to be ready.
        images: References of further images.
        idle: Set while no run waits for its image; only then a pull begins.
        withheld: Says why the node takes no runs now, such as that its disk is full: nothing is pulled then;
            empty: it takes some.
    """

    def __init__(
        self,
        bases: BaseImages,
        pythons: Sequence[str],
        images: Sequence[str],
        idle: asyncio.Event,
        withheld: Callable[[], str],
    ) -> None:
        self._bases = bases
        self._wanted = [
            *(jobs_pb2.JobSpec(python=jobs_pb2.PythonEnvironment(version=version)) for version in pythons),
            *(jobs_pb2.JobSpec(image=jobs_pb2.ImageSource(reference=reference)) for reference in images),
        ]
        self._idle = idle
        self._withheld = withheld
        self._ready: dict[str, str] = {}

    @property
    def ready(self) -> Collection[str]:
        """Return the ids of the images that were found or pulled; they are to stay."""
        return self._ready.values()

    async def run(self, health: EngineHealth) -> NoReturn:
        """Look what is missing and pull it, until cancelled; what cannot be pulled is tried again."""
        backoff = Backoff(random, base=_FIRST_PAUSE_S, cap=_LONGEST_PAUSE_S)
        while True:
            missing = 0
            for wanted in self._wanted:
                await health.wait_ready()
                await self._idle.wait()
                missing += not await self._get(wanted)
            if missing:
                await asyncio.sleep(backoff.failed())
            else:
                backoff.succeeded()
                await asyncio.sleep(uniform(_EVERY_S * 0.8, _EVERY_S * 1.2))  # noqa: S311 - jitter

    async def _get(self, wanted: jobs_pb2.JobSpec) -> bool:
        """Bring one image here; False: it cannot be had now."""
        what = wanted.image.reference or f"the base image for Python {wanted.python.version}"
        began = time.monotonic()
        if why := self._withheld():
            _log.warning("%s is not looked for: %s", what, why)
            return False
        try:
            got = await self._present(wanted)
        except TowlineError as error:
            _log.warning("%s is not ready: %s", what, error.message)
            return False
        if isinstance(got, leases_pb2.AttemptResult):
            _log.warning("%s is not ready: %s", what, got.failure.message)
            return False
        if self._ready.get(what) != got.facts.id:
            pulled = got.outcome == runs_pb2.IMAGE_OUTCOME_PULLED
            how = f"pulled in {time.monotonic() - began:.1f} s" if pulled else "it was here"
            _log.info("%s is ready: %s", what, how)
        self._ready[what] = got.facts.id
        return True

    async def _present(self, wanted: jobs_pb2.JobSpec) -> Ready | leases_pb2.AttemptResult:
        tell = Tell(_log.debug)
        if wanted.HasField("image"):
            policy = docker_pb2.PULL_POLICY_IF_NOT_PRESENT
            return await self._bases.present(wanted.image.reference, policy, tell)
        return await self._bases.base(runs_pb2.LaunchSpec(job=wanted), tell)
