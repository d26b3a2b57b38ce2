"""Installations in throw-away containers, of which what is kept is committed; see core.recipe."""

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

import uv

from towline.errors import TowlineError
from towline.v1 import leases_pb2
from towline_agent import tars
from towline_agent.builders import BuilderChoice
from towline_agent.core import recipe, repositories
from towline_agent.core.apt_steps import AptSteps
from towline_agent.core.conda import Channels
from towline_agent.core.install_failures import InstallLog
from towline_agent.core.redaction import Redactor, logins_of
from towline_agent.core.system_packages import Mirrors
from towline_agent.core.uv_steps import UvSteps
from towline_agent.engine.port import ContainerId, Engine
from towline_agent.packages import Fetched
from towline_agent.stopping import to_the_end
from towline_agent.telling import Tell

__all__ = ["BuildLog", "BuildSettings", "Installation", "Installations"]

_log = logging.getLogger(__name__)
_CLEAN_UP_S: Final = 30.0


class BuildLog(Protocol):
    """Where a build's output goes."""

    async def write(self, data: bytes) -> None:
        """Add bytes."""
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
    mirrors: Mirrors = field(default_factory=Mirrors)
    """Of distributions' packages."""
    channels: Channels = field(default_factory=Channels)
    """Of conda's packages."""
    dockerfile_builder: BuilderChoice = BuilderChoice.AUTO
    """What builds with Dockerfiles."""
    secrets: Mapping[str, Path] = field(default_factory=dict)
    """Of builds with Dockerfiles: id → file."""

    @property
    def label(self) -> str:
        """Return what build containers are labelled with."""
        return f"{self.builder}:{self.starts}"


@dataclass(frozen=True)
class Installation:
    """What a container is to install."""

    files: Mapping[str, bytes]
    """From core.recipe, by their path in /towline."""
    index_urls: Sequence[str]
    """Where packages come from; their credentials stay out of the log."""
    packages: Fetched
    """What no index has."""
    trees: Mapping[str, Path] = field(default_factory=dict)
    """Folders of programs that it needs, by their path in /towline."""
    step: str = ""
    """What its time is counted as; empty: what it prints tells its steps."""


class Installations:
    """Runs installations.

    Args:
        engine: The engine.
        settings: How to build.
    """

    def __init__(self, engine: Engine, settings: BuildSettings) -> None:
        self._engine = engine
        self.settings = settings
        """How to build."""
        self._in_use: set[str] = set()
        """Names of the containers of builds that go on."""

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
        return builder == self.settings.builder and (start != str(self.settings.starts) or not in_use)

    def container(self, image_id: str) -> dict[str, Any]:
        """Make the configuration of a container that installs something onto an image."""
        settings = self.settings
        return recipe.build_container(
            image_id, settings.label, cache_volume=settings.cache_volume, network=settings.network
        )

    async def run(
        self, container: ContainerId, installation: Installation, log: BuildLog, tell: Tell
    ) -> leases_pb2.AttemptResult | None:
        """Run an installation to its end; return the attempt's result if it fails.

        Args:
            container: From `throw_away` of `container`.
            installation: What is to be installed.
            log: Gets its output as it comes, without credentials.
            tell: Told how far it is.
        """
        packages = installation.packages
        with tell.step("start the build container"):
            entries = await asyncio.to_thread(self._files, installation)
            await self._engine.put_archive(container, "/towline", tars.stream(entries))
            for number, archive in enumerate(packages.checkouts):
                place = repositories.place(number)
                await self._engine.put_archive(container, place, tars.file_chunks(archive))
            await self._engine.start(container)
        uv_steps, apt_steps = UvSteps(), AptSteps()

        def show(data: bytes) -> None:
            if doing := uv_steps.feed(data) or apt_steps.feed(data):
                tell.often(f"installing packages: {doing}")

        with tell.step(installation.step) as step:
            said = await self._follow(container, installation.index_urls, log, show)
            ended = await self._engine.wait(container)
            for one in uv_steps.steps:
                tell.did(one)
            apt_steps.count(step)
        return None if ended.exit and ended.exit.code == 0 else said.failure()

    def _files(self, installation: Installation) -> Sequence[tars.Entry]:
        packages = installation.packages
        entries = [tars.Entry(name, content) for name, content in installation.files.items()]
        for name, tree in installation.trees.items():
            found = (path for path in tree.rglob("*") if path.is_file() and path.suffix != ".pyc")
            entries += [tars.Entry(f"{name}/{path.relative_to(tree).as_posix()}", path) for path in found]
        entries += [tars.Entry(f"wheels/{name}", path) for name, path in packages.wheels.items()]
        if self.settings.ca_bundle:
            entries.append(tars.Entry("ca.pem", self.settings.ca_bundle.read_bytes()))
        folders = [tars.Entry(name, None, 0o700) for name in ("home", "tmp", "bin")]
        places = (repositories.place(number) for number in range(len(packages.checkouts)))
        folders += [tars.Entry(place.removeprefix("/towline/"), None, 0o700) for place in places]
        return [*folders, *entries, tars.Entry("bin/uv", Path(uv.find_uv_bin()), 0o755)]

    async def _follow(
        self, container: ContainerId, urls: Sequence[str], log: BuildLog, show: Callable[[bytes], None]
    ) -> InstallLog:
        """Ship a build's output until it ends, without credentials, and return what says how it failed."""
        redactor, kept = Redactor(logins_of(urls)), InstallLog()
        async for data in self._engine.logs(container, follow=True):
            shown = redactor.feed(data)
            kept.feed(shown)
            await log.write(shown)
            show(shown)
        rest = redactor.end()
        kept.feed(rest)
        await log.write(rest)
        return kept

    @asynccontextmanager
    async def throw_away(self, config: Mapping[str, Any]) -> AsyncIterator[ContainerId]:
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
