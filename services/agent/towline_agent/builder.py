"""Images: the one a run is to use, reused, built or pulled; each built once, however many ask."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, Protocol
from weakref import WeakValueDictionary

from towline import names
from towline.errors import FailedPrecondition, InvalidArgument, NotFound
from towline.v1 import docker_pb2, jobs_pb2, leases_pb2, runs_pb2
from towline_agent import tars
from towline_agent.core import ancestors, keys, locks, recipe
from towline_agent.core.ancestors import Ancestor
from towline_agent.core.containers import ImageFacts
from towline_agent.core.failures import failed
from towline_agent.engine.port import Engine
from towline_agent.installations import BuildLog, BuildSettings, Installation, Installations
from towline_agent.packages import NOTHING, Packages
from towline_agent.sharing import Got, SharedImages, Wanted, built
from towline_agent.source_files import reading
from towline_agent.sources import Sources

__all__ = ["BuildLog", "BuildSettings", "DockerImages", "ImageBuilder", "Ready"]

_log = logging.getLogger(__name__)
_VANISHED: Final = "Image {} is gone right after it was built; was it removed at the same moment?"

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Ready:
    """An image that is on the node."""

    facts: ImageFacts
    outcome: runs_pb2.ImageOutcome.ValueType


class ImageBuilder(Protocol):
    """Gets the image of a run onto the node."""

    async def ensure(
        self, spec: runs_pb2.LaunchSpec, log: BuildLog, tell: Tell
    ) -> Ready | leases_pb2.AttemptResult:
        """Return the image, or the result of the attempt if there can be none.

        Args:
            spec: What is to run.
            log: Gets the output of a build as it comes.
            tell: Gets what is done, for people.

        Raises:
            Unavailable: The engine went away; trying again is safe.
        """
        ...


class DockerImages:
    """Builds by running the installation in a container and committing what it leaves; see core.recipe.

    Args:
        engine: The engine.
        sources: Where source trees come from.
        packages: Where packages come from that no index has.
        settings: How to build.
        shared: Where a fleet keeps its images; None: each node builds its own.
    """

    def __init__(
        self,
        engine: Engine,
        sources: Sources,
        packages: Packages,
        settings: BuildSettings,
        shared: SharedImages | None = None,
    ) -> None:
        self._engine = engine
        self._sources = sources
        self._packages = packages
        self._settings = settings
        self._shared = shared
        self._building: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._installations = Installations(engine, settings)

    async def ensure(
        self, spec: runs_pb2.LaunchSpec, log: BuildLog, tell: Tell
    ) -> Ready | leases_pb2.AttemptResult:
        """See ImageBuilder."""
        if spec.job.WhichOneof("source") == "image":
            policy = spec.docker.image.pull_policy
            return await self._present(spec.job.image.reference, policy, tell)
        base = await self._base(spec, tell)
        if isinstance(base, leases_pb2.AttemptResult):
            return base
        build = _Build(spec, base.facts, self._key(spec, base.facts), log, tell)
        digest = keys.job_digest(build.key, keys.source_id(spec.job), spec.job.python.editables)
        tag = keys.job_tag(digest)
        if found := await self._engine.image(tag):
            return Ready(found, runs_pb2.IMAGE_OUTCOME_REUSED)
        async with self._alone(tag, tell):
            if found := await self._engine.image(tag):
                return Ready(found, runs_pb2.IMAGE_OUTCOME_REUSED)
            got = await self._get(digest, tag, build, self._build)
        return got if isinstance(got, leases_pb2.AttemptResult) else Ready(*got)

    async def sweep(self) -> None:
        """Remove what builds have left that were killed or could not clean up after themselves."""
        await self._installations.sweep()

    def _key(self, spec: runs_pb2.LaunchSpec, base: ImageFacts) -> keys.EnvironmentKey:
        python = spec.job.python
        return keys.EnvironmentKey(
            base_image_id=base.id,
            python=recipe.python_version(python),
            requirements=tuple(line.strip() for line in python.requirements if line.strip()),
            index_urls=keys.without_credentials(self._settings.indexes.urls(python)),
            uv_version=version("uv"),
            wheels=tuple(keys.wheel_id(wheel) for wheel in python.wheels),
            complete=python.complete,
            lock=keys.lock_id(python),
        )

    @asynccontextmanager
    async def _alone(self, tag: str, tell: Tell) -> AsyncIterator[None]:
        """Let one build of a tag run at a time; who waited finds the image there."""
        lock = self._building.setdefault(tag, asyncio.Lock())
        if lock.locked():
            tell("waiting for another run that builds the same image")
        async with lock:
            yield

    async def _present(
        self, reference: str, policy: docker_pb2.PullPolicy.ValueType, tell: Tell
    ) -> Ready | leases_pb2.AttemptResult:
        try:
            found = await self._engine.image(reference)
            if found and policy != docker_pb2.PULL_POLICY_ALWAYS:
                return Ready(found, runs_pb2.IMAGE_OUTCOME_REUSED)
            if policy == docker_pb2.PULL_POLICY_NEVER:
                return failed(
                    runs_pb2.FAILURE_CAUSE_IMAGE_PULL,
                    f"Image {reference} is not on the node and the queue's pull policy is NEVER; "
                    "bring it there or allow pulling.",
                )
            await self._engine.pull(reference, lambda line: tell(f"pulling {reference}: {line}"))
        except (NotFound, InvalidArgument) as error:
            return failed(
                runs_pb2.FAILURE_CAUSE_IMAGE_PULL,
                f"Image {reference} cannot be pulled: {error.message}",
            )
        pulled = await self._engine.image(reference)
        if pulled is None:
            return failed(
                runs_pb2.FAILURE_CAUSE_IMAGE_PULL,
                f"Image {reference} was pulled but is not there; was it removed at the same moment?",
            )
        same = found is not None and found.id == pulled.id
        return Ready(pulled, runs_pb2.IMAGE_OUTCOME_REUSED if same else runs_pb2.IMAGE_OUTCOME_PULLED)

    async def _base(self, spec: runs_pb2.LaunchSpec, tell: Tell) -> Ready | leases_pb2.AttemptResult:
        python = recipe.python_version(spec.job.python)
        chosen = spec.docker.image.base_image
        candidates = (
            [chosen] if chosen else [name.format(version=python) for name in self._settings.base_images]
        )
        for reference in candidates:
            if found := await self._engine.image(reference):
                return Ready(found, runs_pb2.IMAGE_OUTCOME_REUSED)
        refusals = []
        for reference in candidates:
            got = await self._present(reference, docker_pb2.PULL_POLICY_IF_NOT_PRESENT, tell)
            if isinstance(got, Ready):
                return got
            refusals.append(got.failure.message)
        return failed(
            runs_pb2.FAILURE_CAUSE_IMAGE_PULL,
            f"There is no base image for Python {python} on this node. {' '.join(refusals)} Bring one "
            "of them to the node, name another in the queue's template (image.base_image), or record the job "
            "with a Python version that has one.",
        )

    async def _get(self, digest: str, tag: str, build: "_Build", make: "_Make") -> Got:
        """Build an image here, or get it from who has built it; see SharedImages."""

        async def make_here(tell: Tell) -> ImageFacts | leases_pb2.AttemptResult:
            return await make(replace(build, tell=tell), tag)

        if self._shared is None:
            return built(await make_here(build.tell))
        return await self._shared.get(Wanted(f"sha256:{digest}", tag, make_here), build.tell)

    async def _build(self, build: "_Build", tag: str) -> ImageFacts | leases_pb2.AttemptResult:
        try:
            async with self._sources.archive(build.spec.job, build.tell) as archive:
                locked = await asyncio.to_thread(_locked, build.spec.job.python, archive)
                environment = await self._environment(build, locked)
                if isinstance(environment, leases_pb2.AttemptResult):
                    return environment
                refused = await self._add_source(build, locked, environment, archive, tag)
        except (FailedPrecondition, InvalidArgument, NotFound) as error:
            await build.log.write(f"towline: {error.message}\n".encode())
            return failed(
                runs_pb2.FAILURE_CAUSE_IMAGE_BUILD, f"The image could not be built: {error.message}"
            )
        if refused is not None:
            return refused
        facts = await self._engine.image(tag)
        if facts is None:
            return failed(runs_pb2.FAILURE_CAUSE_CONTROL_PLANE, _VANISHED.format(tag))
        await build.log.write(f"towline: built {tag}\n".encode())
        return facts

    async def _environment(
        self, build: "_Build", locked: locks.Locked | None
    ) -> ImageFacts | leases_pb2.AttemptResult:
        key = replace(build.key, lock=locked.digest if locked else "")
        tag = keys.environment_tag(key)
        async with self._alone(tag, build.tell):
            if found := await self._engine.image(tag):
                return found

            async def make(wanted: _Build, name: str) -> ImageFacts | leases_pb2.AttemptResult:
                return await self._build_environment(wanted, locked, name)

            got = await self._get(key.digest(), tag, build, make)
        return got if isinstance(got, leases_pb2.AttemptResult) else got[0]

    async def _build_environment(
        self, build: "_Build", locked: locks.Locked | None, tag: str
    ) -> ImageFacts | leases_pb2.AttemptResult:
        job, _ = names.split_version(names.JobVersionName(build.spec.job_version))
        key = replace(build.key, lock=locked.digest if locked else "")
        ancestor = ancestors.closest(key, job, await self._ancestors())
        if ancestor is None or not await self._descends(build, tag, ancestor):
            refused = await self._install(build, locked, tag, None)
            if refused is not None:
                return refused
        facts = await self._engine.image(tag)
        if facts is None:
            return failed(runs_pb2.FAILURE_CAUSE_CONTROL_PLANE, _VANISHED.format(tag))
        return facts

    async def _descends(self, build: "_Build", tag: str, ancestor: Ancestor) -> bool:
        """Make an environment image of another one; False: it is to be made of the base image."""
        try:
            done = await self._install(build, None, tag, ancestor) is None
        except NotFound as error:  # somebody has removed the other one since it was listed
            await build.log.write(f"towline: {error.message}\n".encode())
            done = False
        if not done:
            await build.log.write(b"towline: starting anew, on the base image\n")
        return done

    async def _ancestors(self) -> list[Ancestor]:
        found = await self._engine.images({ancestors.LABEL_ENVIRONMENT: ""})
        read = (Ancestor.read(image.id, image.labels) for image in found)
        return [one for one in read if one is not None]

    async def _install(
        self, build: "_Build", locked: locks.Locked | None, tag: str, ancestor: Ancestor | None
    ) -> leases_pb2.AttemptResult | None:
        """Make an environment image, of the base image or of what differs from another environment."""
        python = build.spec.job.python
        count = len(build.key.requirements) + len(build.key.wheels)
        what = f"what {python.lock.path} lists" if locked else f"{count} requirements"
        if ancestor is not None:
            count = len(frozenset(build.key.requirements) - ancestor.requirements)
            what = f"{count} requirements that an earlier environment of this job has not"
        build.tell(f"installing {what} for Python {build.key.python}")
        await build.log.write(f"towline: Python {build.key.python}, {what}\n".encode())
        indexes = self._settings.indexes
        files = recipe.build_files(python, indexes, locked, onto_another=ancestor is not None)
        start = self._installations.container(ancestor.image_id if ancestor else build.base.id)
        async with (
            self._packages.fetched(python, build.tell) as packages,
            self._installations.throw_away(start) as container,
        ):
            installation = Installation(files, indexes.urls(python), packages)
            refused = await self._installations.run(container, installation, build.log)
            if refused is not None:
                return refused
            build.tell("keeping the environment as an image")
            job, _ = names.split_version(names.JobVersionName(build.spec.job_version))
            key = replace(build.key, lock=locked.digest if locked else "")
            labels = {ancestors.LABEL_ENVIRONMENT: ancestors.label_of(key, job, ancestor)}
            config = recipe.image_config(build.base.environment, labels)
            await self._engine.commit(container, tag, config)
        return None

    async def _add_source(
        self,
        build: "_Build",
        locked: locks.Locked | None,
        environment: ImageFacts,
        archive: Path,
        tag: str,
    ) -> leases_pb2.AttemptResult | None:
        """Make the image that has the source tree; what is installed from it is installed here."""
        build.tell("adding the source to the image")
        files = recipe.project_files(build.spec.job.python, self._settings.indexes, locked)
        config: Mapping[str, Any] = {
            "Image": environment.id,
            "Labels": {recipe.LABEL_BUILDER: self._settings.label},
        }
        if files is not None:
            config = self._installations.container(environment.id)
        async with self._installations.throw_away(config) as container:
            await self._engine.put_archive(container, "/", tars.file_chunks(archive))
            if files is not None:
                build.tell("installing from the source")
                await build.log.write(b"towline: installing from the source\n")
                urls = self._settings.indexes.urls(build.spec.job.python)
                refused = await self._installations.run(
                    container, Installation(files, urls, NOTHING), build.log
                )
                if refused is not None:
                    return refused
            await self._engine.commit(container, tag, recipe.image_config(environment.environment))
        return None


@dataclass(frozen=True)
class _Build:
    """One build."""

    spec: runs_pb2.LaunchSpec
    base: ImageFacts
    key: keys.EnvironmentKey
    log: BuildLog
    tell: Tell


_Make = Callable[[_Build, str], Awaitable[ImageFacts | leases_pb2.AttemptResult]]


def _locked(python: jobs_pb2.PythonEnvironment, archive: Path) -> locks.Locked | None:
    with reading(archive) as find:
        return recipe.locked_environment(python, find)
