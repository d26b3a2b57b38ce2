"""Packages that no index has: wheels from the registry, checkouts of repositories; as files."""

import asyncio
import shutil
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from towline.v1 import jobs_pb2
from towline_agent import checkouts
from towline_agent.core import repositories
from towline_agent.registry import Registry
from towline_agent.retry import retrying
from towline_agent.telling import Tell

__all__ = ["NOTHING", "Fetched", "Packages"]


@dataclass(frozen=True)
class Fetched:
    """Files of packages."""

    wheels: Mapping[str, Path]
    """By the names of the wheels, which the files do not have."""
    checkouts: Sequence[Path]
    """Tar archives, in the order of `repositories.find`."""


NOTHING: Final = Fetched({}, ())


class Packages:
    """Fetches packages into files of the agent's work folder.

    Args:
        registry: Where wheels are.
        work: Folder for temporary files.
        git_protocols: Protocols that git may use.
    """

    def __init__(self, registry: Registry, work: Path, git_protocols: Sequence[str]) -> None:
        self._registry = registry
        self._work = work
        self._checkouts = checkouts.Checkouts(git_protocols)

    @asynccontextmanager
    async def fetched(self, python: jobs_pb2.PythonEnvironment, tell: Tell) -> AsyncIterator[Fetched]:
        """Give what an environment needs besides what indexes have; it is gone after the block.

        Args:
            python: The environment.
            tell: Told what is done, and why it takes longer.

        Raises:
            InvalidArgument: A wheel is not what was recorded; or see `Checkouts.make`.
            NotFound: The registry does not have it; or see `Checkouts.make`.
            FailedPrecondition: See `Checkouts.make`.
        """
        wanted = repositories.find(python.requirements)
        if not python.wheels and not wanted:
            yield Fetched({}, ())
            return
        folder = self._work / f"packages-{uuid.uuid4().hex}"
        folder.mkdir()
        try:
            wheels = {wheel.filename: folder / f"wheel-{n}" for n, wheel in enumerate(python.wheels)}
            for wheel in python.wheels:
                await self._download(wheel, wheels[wheel.filename], tell)
            archives = [folder / f"checkout-{number}.tar" for number in range(len(wanted))]
            for repository, archive in zip(wanted, archives, strict=True):
                await self._check_out(repository, archive, tell)
            yield Fetched(wheels, archives)
        finally:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    async def _download(self, wheel: jobs_pb2.Wheel, target: Path, tell: Tell) -> None:
        await retrying(
            lambda: self._registry.download(wheel.digest, wheel.size_bytes, target),
            what=f"fetching {wheel.filename}",
            patience_s=None,
            waiting=tell,
        )

    async def _check_out(self, repository: repositories.Repository, target: Path, tell: Tell) -> None:
        source = jobs_pb2.GitSource(remote=repository.remote, commit=repository.commit)
        folder = target.with_suffix("")
        folder.mkdir()
        tree = await self._checkouts.make(source, folder, None, tell)
        await asyncio.to_thread(checkouts.pack, tree, target)
        await asyncio.to_thread(shutil.rmtree, folder)
