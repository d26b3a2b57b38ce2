"""Images: the one a run is to use, reused, built or pulled; each built once, however many ask."""

import asyncio
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from towline.errors import FailedPrecondition, InvalidArgument, NotFound, Unavailable
from towline.v1 import jobs_pb2, leases_pb2, runs_pb2
from towline_agent import tars
from towline_agent.base_images import BaseImages
from towline_agent.builders import Builders
from towline_agent.builds import Build, not_built
from towline_agent.core import keys, locks, recipe
from towline_agent.core.ancestors import LABEL_ENVIRONMENT
from towline_agent.core.conda import Channels
from towline_agent.core.containers import ImageFacts
from towline_agent.dockerfiles import DockerfileImages
from towline_agent.engine.port import Engine
from towline_agent.environments import Environments, environment_key
from towline_agent.installations import BuildLog, BuildSettings, Installation, Installations
from towline_agent.node_images import NodeImages, Ready
from towline_agent.packages import NOTHING, Packages
from towline_agent.sharing import SharedImages, Wanted
from towline_agent.source_files import reading
from towline_agent.sources import Sources
from towline_agent.telling import Tell

__all__ = ["BuildLog", "BuildSettings", "DockerImages", "ImageBuilder", "Ready"]


class ImageBuilder(Protocol):
    """Gets the image of a run onto the node."""

    async def ensure(
        self, spec: runs_pb2.LaunchSpec, log: BuildLog, tell: Tell
    ) -> Ready | leases_pb2.AttemptResult:
        """Return the image, or the result of the attempt if there can be none.

        Args:
            spec: What is to run.
            log: Gets the output of a build as it comes.
            tell: Gets what is done, and keeps account of it.

        Raises:
            Unavailable: The engine, or an image that was on it, went away; trying again is safe.
        """
        ...


class DockerImages:
    """Decides what image a run needs: its job's, its Dockerfile's, or one of an environment and a source.

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
        self._installations = Installations(engine, settings)
        self._images = NodeImages(engine, shared)
        self._bases = BaseImages(engine, settings.base_images)
        self._environments = Environments(engine, self._installations, packages, self._images)
        builders = Builders(engine, settings.dockerfile_builder, settings.network)
        self._dockerfiles = DockerfileImages(sources, self._bases, self._images, builders, settings)

    async def ensure(
        self, spec: runs_pb2.LaunchSpec, log: BuildLog, tell: Tell
    ) -> Ready | leases_pb2.AttemptResult:
        """See ImageBuilder."""
        platform = spec.job.platform
        if refused := await self._bases.elsewhere(platform):
            return refused
        if spec.job.WhichOneof("source") == "image":
            reference, policy = spec.job.image.reference, spec.docker.image.pull_policy
            return await self._bases.present(reference, policy, tell, platform=platform)
        if spec.HasField("dockerfile"):
            return await self._dockerfiles.ensure(spec, log, tell)
        base = await self._bases.base(spec, tell)
        if isinstance(base, leases_pb2.AttemptResult):
            return base
        settings = self._installations.settings
        key = environment_key(spec.job.python, base.facts, settings.indexes, settings.channels)
        build = Build(spec, base.facts, key, log, tell)
        digest = keys.job_digest(key, keys.source_id(spec.job), spec.job.python.editables)

        async def make(tell: Tell) -> ImageFacts | leases_pb2.AttemptResult:
            return await self._build(replace(build, tell=tell), digest)

        return await self._images.get(Wanted(f"sha256:{digest}", keys.job_tag(digest), make), tell)

    @property
    def installations(self) -> Installations:
        """Return what runs installations, for those who look after what these leave."""
        return self._installations

    async def sweep(self) -> None:
        """Remove what builds have left that were killed or could not clean up after themselves."""
        await self._installations.sweep()

    async def _build(self, build: Build, digest: str) -> ImageFacts | leases_pb2.AttemptResult:
        try:
            async with AsyncExitStack() as stack:
                with build.tell.step("fetch the source"):
                    source = self._sources.archive(build.spec.job, build.tell)
                    archive = await stack.enter_async_context(source)
                channels = self._installations.settings.channels
                build = build.by(await asyncio.to_thread(_locked, build.python, archive, channels))
                environment = await self._environments.get(build)
                if isinstance(environment, leases_pb2.AttemptResult):
                    return environment
                refused = await self._add_source(build, environment, archive, digest)
        except (FailedPrecondition, InvalidArgument, NotFound) as error:
            if error.reason == "IMAGE_NOT_FOUND":  # what the build starts from was here a moment ago
                raise Unavailable(
                    f"an image was removed from the engine: {error.message}", reason="IMAGE_GONE"
                ) from error
            return await not_built(error, build.log)
        if refused is not None:
            return refused
        tag = keys.job_tag(digest)
        made = await self._images.made(tag)
        if isinstance(made, ImageFacts):
            await build.log.write(f"towline: built {tag}\n".encode())
        return made

    async def _add_source(
        self, build: Build, environment: ImageFacts, archive: Path, digest: str
    ) -> leases_pb2.AttemptResult | None:
        """Make the image that has the source tree; what is installed from it is installed here."""
        build.tell("adding the source to the image")
        settings = self._installations.settings
        files = recipe.project_files(build.python, settings.indexes, build.locked)
        config: dict[str, Any] = {
            "Image": environment.id,
            "Labels": {recipe.LABEL_BUILDER: settings.label},
        }
        if files is not None:
            config = self._installations.container(environment.id)
        async with self._installations.throw_away(config) as container:
            with build.tell.step("add the source"):
                await self._engine.put_archive(container, "/", tars.file_chunks(archive))
            if files is not None:
                build.tell("installing from the source")
                await build.log.write(b"towline: installing from the source\n")
                installation = Installation(files, settings.indexes.urls(build.python), NOTHING)
                refused = await self._installations.run(container, installation, build.log, build.tell)
                if refused is not None:
                    return refused
            with build.tell.step("keep the image"):
                # Not the environment's: another one must never be made from what has a source tree.
                labels = build.labels(settings.builder, digest) | {LABEL_ENVIRONMENT: ""}
                image = recipe.image_config(environment.environment, labels)
                await self._engine.commit(container, keys.job_tag(digest), image)
        return None


def _locked(python: jobs_pb2.PythonEnvironment, archive: Path, channels: Channels) -> locks.Locked | None:
    with reading(archive) as find:
        return recipe.locked_environment(python, find, channels)
