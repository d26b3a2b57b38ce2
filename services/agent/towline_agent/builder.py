"""Images: the one a run is to use, reused, built or pulled; each built once, however many ask."""

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, Protocol
from weakref import WeakValueDictionary

import uv

from towline.errors import InvalidArgument, NotFound, TowlineError
from towline.v1 import docker_pb2, leases_pb2, runs_pb2
from towline_agent import tars
from towline_agent.core import keys, recipe
from towline_agent.core.containers import ImageFacts
from towline_agent.core.failures import LogTail, build_failure, failed
from towline_agent.engine.port import ContainerId, Engine
from towline_agent.sources import Sources
from towline_agent.stopping import to_the_end

__all__ = ["BuildLog", "BuildSettings", "DockerImages", "ImageBuilder", "Ready"]

_log = logging.getLogger(__name__)
_CLEAN_UP_S: Final = 30.0
_VANISHED: Final = "Image {} is gone right after it was built; was it removed at the same moment?"

Tell = Callable[[str], None]


class BuildLog(Protocol):
    """Where a build's output goes."""

    async def write(self, data: bytes) -> None:
        """Add bytes."""
        ...


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


@dataclass(frozen=True)
class BuildSettings:
    """How an agent builds."""

    builder: str
    """Id of the agent's data folder; marks build containers."""
    starts: int
    """How often the agent was started; tells its build containers from those of earlier starts."""
    base_images: tuple[str, ...]
    """Candidates in order; {version} becomes "X.Y"."""
    indexes: recipe.Indexes
    ca_bundle: Path | None = None
    network: str = ""
    cache_volume: str = ""

    @property
    def label(self) -> str:
        """Return what build containers are labelled with."""
        return f"{self.builder}:{self.starts}"


class DockerImages:
    """Builds by running the installation in a container and committing what it leaves; see core.recipe.

    Args:
        engine: The engine.
        sources: Where source trees come from.
        settings: How to build.
    """

    def __init__(self, engine: Engine, sources: Sources, settings: BuildSettings) -> None:
        self._engine = engine
        self._sources = sources
        self._settings = settings
        self._building: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._in_use: set[str] = set()
        """Names of the containers of builds that go on."""

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
        tag = keys.job_tag(build.key, keys.source_id(spec.job))
        if found := await self._engine.image(tag):
            return Ready(found, runs_pb2.IMAGE_OUTCOME_REUSED)
        async with self._alone(tag, tell):
            if found := await self._engine.image(tag):
                return Ready(found, runs_pb2.IMAGE_OUTCOME_REUSED)
            return await self._build(build, tag)

    async def sweep(self) -> None:
        """Remove what builds have left that were killed or could not clean up after themselves."""
        containers = await self._engine.containers({recipe.LABEL_BUILDER: ""})
        volumes = await self._engine.volumes({recipe.LABEL_BUILDER: ""})
        # Asked for after them: a build is in use before what it uses is there.
        in_use = frozenset(self._in_use)
        for container in containers:
            if self._is_left_over(container.labels, in_use=container.name in in_use):
                await self._engine.remove(container.id)
        for volume in volumes:
            if self._is_left_over(volume.labels, in_use=bool(in_use)):
                await self._engine.remove_volume(volume.name)

    def _is_left_over(self, labels: Mapping[str, str], *, in_use: bool) -> bool:
        builder, _, start = labels[recipe.LABEL_BUILDER].rpartition(":")
        return builder == self._settings.builder and (start != str(self._settings.starts) or not in_use)

    def _key(self, spec: runs_pb2.LaunchSpec, base: ImageFacts) -> keys.EnvironmentKey:
        python = spec.job.python
        return keys.EnvironmentKey(
            base_image_id=base.id,
            python=recipe.python_version(python),
            requirements=tuple(line.strip() for line in python.requirements if line.strip()),
            index_urls=keys.without_credentials(self._settings.indexes.urls(python)),
            uv_version=version("uv"),
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

    async def _build(self, build: "_Build", tag: str) -> Ready | leases_pb2.AttemptResult:
        environment_tag = keys.environment_tag(build.key)
        async with self._alone(environment_tag, build.tell):
            environment = await self._engine.image(environment_tag)
            if environment is None:
                made = await self._build_environment(build, environment_tag)
                if isinstance(made, leases_pb2.AttemptResult):
                    return made
                environment = made
        build.tell("adding the source to the image")
        try:
            async with self._sources.archive(build.spec.job, build.tell) as archive:
                config = {"Image": environment.id, "Labels": {recipe.LABEL_BUILDER: self._settings.label}}
                async with self._throw_away(config) as container:
                    await self._engine.put_archive(container, "/", tars.file_chunks(archive))
                    await self._engine.commit(container, tag, recipe.image_config(environment.environment))
        except (InvalidArgument, NotFound) as error:
            await build.log.write(f"towline: {error.message}\n".encode())
            return failed(
                runs_pb2.FAILURE_CAUSE_IMAGE_BUILD, f"The image could not be built: {error.message}"
            )
        facts = await self._engine.image(tag)
        if facts is None:
            return failed(runs_pb2.FAILURE_CAUSE_CONTROL_PLANE, _VANISHED.format(tag))
        await build.log.write(f"towline: built {tag}\n".encode())
        return Ready(facts, runs_pb2.IMAGE_OUTCOME_BUILT)

    async def _build_environment(self, build: "_Build", tag: str) -> ImageFacts | leases_pb2.AttemptResult:
        settings, python = self._settings, build.spec.job.python
        count = len(build.key.requirements)
        build.tell(f"installing {count} requirements for Python {build.key.python}")
        await build.log.write(f"towline: Python {build.key.python}, {count} requirements\n".encode())
        config = recipe.build_container(
            build.base.id, settings.label, cache_volume=settings.cache_volume, network=settings.network
        )
        async with self._throw_away(config) as container:
            entries = await asyncio.to_thread(self._files, build)
            await self._engine.put_archive(container, "/towline", tars.stream(entries))
            await self._engine.start(container)
            tail = await self._follow(container, build, settings.indexes.urls(python))
            status = await self._engine.wait(container)
            if status.code != 0:
                return build_failure(tail)
            build.tell("keeping the environment as an image")
            await self._engine.commit(container, tag, recipe.image_config(build.base.environment))
        facts = await self._engine.image(tag)
        if facts is None:
            return failed(runs_pb2.FAILURE_CAUSE_CONTROL_PLANE, _VANISHED.format(tag))
        return facts

    def _files(self, build: "_Build") -> Sequence[tars.Entry]:
        small = recipe.build_files(build.spec.job.python, self._settings.indexes)
        entries = [tars.Entry(name, content) for name, content in small.items()]
        if self._settings.ca_bundle:
            entries.append(tars.Entry("ca.pem", self._settings.ca_bundle.read_bytes()))
        folders = [tars.Entry(name, None, 0o700) for name in ("home", "tmp", "bin")]
        return [*folders, *entries, tars.Entry("bin/uv", Path(uv.find_uv_bin()), 0o755)]

    async def _follow(self, container: ContainerId, build: "_Build", urls: Sequence[str]) -> str:
        """Ship a build's output until it ends, without credentials, and return its last lines."""
        redactor, tail = recipe.Redactor(urls), LogTail()
        async for data in self._engine.logs(container, follow=True):
            shown = redactor.feed(data)
            tail.feed(shown)
            await build.log.write(shown)
        rest = redactor.end()
        tail.feed(rest)
        await build.log.write(rest)
        return tail.text()

    @asynccontextmanager
    async def _throw_away(self, config: Mapping[str, Any]) -> AsyncIterator[ContainerId]:
        """Make a container that is gone after the block, however it is left."""
        name = f"towline-build-{uuid.uuid4().hex}"
        self._in_use.add(name)
        try:
            yield await to_the_end(self._engine.create(name, config))
        finally:
            # Also after a cancel, which came to the block and not to this.
            try:
                async with asyncio.timeout(_CLEAN_UP_S):
                    await self._engine.remove(name)
            except (TowlineError, TimeoutError) as error:
                _log.warning("build container %s stays until the next sweep: %s", name, error)
            finally:
                self._in_use.discard(name)


@dataclass(frozen=True)
class _Build:
    """One build."""

    spec: runs_pb2.LaunchSpec
    base: ImageFacts
    key: keys.EnvironmentKey
    log: BuildLog
    tell: Tell
