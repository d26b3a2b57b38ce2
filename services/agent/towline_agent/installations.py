"""Installations in throw-away containers, of which what is kept is committed; see core.recipe."""

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import uv

from towline.errors import TowlineError
from towline.v1 import leases_pb2
from towline_agent import tars
from towline_agent.core import recipe, repositories
from towline_agent.core.failures import LogTail, build_failure
from towline_agent.engine.port import ContainerId, Engine
from towline_agent.packages import Fetched
from towline_agent.stopping import to_the_end

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


class Installations:
    """Runs installations.

    Args:
        engine: The engine.
        settings: How to build.
    """

    def __init__(self, engine: Engine, settings: BuildSettings) -> None:
        self._engine = engine
        self._settings = settings
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
        return builder == self._settings.builder and (start != str(self._settings.starts) or not in_use)

    def container(self, image_id: str) -> dict[str, Any]:
        """Make the configuration of a container that installs something onto an image."""
        settings = self._settings
        return recipe.build_container(
            image_id, settings.label, cache_volume=settings.cache_volume, network=settings.network
        )

    async def run(
        self, container: ContainerId, installation: Installation, log: BuildLog
    ) -> leases_pb2.AttemptResult | None:
        """Run an installation to its end; return the attempt's result if it fails.

        Args:
            container: From `throw_away` of `container`.
            installation: What is to be installed.
            log: Gets its output as it comes, without credentials.
        """
        files, packages = installation.files, installation.packages
        entries = await asyncio.to_thread(self._files, files, packages)
        await self._engine.put_archive(container, "/towline", tars.stream(entries))
        for number, archive in enumerate(packages.checkouts):
            await self._engine.put_archive(container, repositories.place(number), tars.file_chunks(archive))
        await self._engine.start(container)
        tail = await self._follow(container, installation.index_urls, log)
        status = await self._engine.wait(container)
        return build_failure(tail) if status.code != 0 else None

    def _files(self, files: Mapping[str, bytes], packages: Fetched) -> Sequence[tars.Entry]:
        entries = [tars.Entry(name, content) for name, content in files.items()]
        entries += [tars.Entry(f"wheels/{name}", path) for name, path in packages.wheels.items()]
        if self._settings.ca_bundle:
            entries.append(tars.Entry("ca.pem", self._settings.ca_bundle.read_bytes()))
        folders = [tars.Entry(name, None, 0o700) for name in ("home", "tmp", "bin")]
        places = (repositories.place(number) for number in range(len(packages.checkouts)))
        folders += [tars.Entry(place.removeprefix("/towline/"), None, 0o700) for place in places]
        return [*folders, *entries, tars.Entry("bin/uv", Path(uv.find_uv_bin()), 0o755)]

    async def _follow(self, container: ContainerId, urls: Sequence[str], log: BuildLog) -> str:
        """Ship a build's output until it ends, without credentials, and return its last lines."""
        redactor, tail = recipe.Redactor(urls), LogTail()
        async for data in self._engine.logs(container, follow=True):
            shown = redactor.feed(data)
            tail.feed(shown)
            await log.write(shown)
        rest = redactor.end()
        tail.feed(rest)
        await log.write(rest)
        return tail.text()

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
