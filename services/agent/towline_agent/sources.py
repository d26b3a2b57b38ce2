"""Source trees: from the registry or from git, as one archive that was judged safe."""

import asyncio
import shutil
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO, Final

from towline.errors import InvalidArgument, ResourceExhausted
from towline.v1 import jobs_pb2
from towline_agent import checkouts
from towline_agent.core import archives
from towline_agent.registry import Registry
from towline_agent.retry import retrying
from towline_agent.source_files import FOLDER

__all__ = ["Sources"]

_OWNER: Final = 1000
_COPIES: Final = 2  # as it came, and as it was judged safe


class Sources:
    """Fetches source trees into files of the agent's work folder.

    Args:
        registry: Where code snapshots are.
        work: Folder for temporary files.
        git_protocols: Protocols that git sources may use.
        bounds: How much a tree may hold.
    """

    def __init__(
        self,
        registry: Registry,
        work: Path,
        git_protocols: Sequence[str],
        bounds: archives.Bounds | None = None,
    ) -> None:
        self._registry = registry
        self._work = work
        self._checkouts = checkouts.Checkouts(git_protocols)
        self._bounds = bounds or archives.Bounds()

    @asynccontextmanager
    async def archive(self, job: jobs_pb2.JobSpec, waiting: Callable[[str], None]) -> AsyncIterator[Path]:
        """Give a tar archive in which the source tree lies in "workspace"; it is gone after the block.

        Args:
            job: With a code or git source.
            waiting: Told why it takes longer.

        Raises:
            InvalidArgument: The archive is damaged, unsafe or too large; or see `Checkouts.make`.
            ResourceExhausted: This node has no room for it; reason NO_SPACE.
            NotFound: The registry does not have it; or see `Checkouts.make`.
        """
        folder = self._work / f"source-{uuid.uuid4().hex}"
        folder.mkdir()
        try:
            fetched, checked = folder / "fetched.tar", folder / "checked.tar"
            if job.WhichOneof("source") == "git":
                await self._check_out(job.git, folder, fetched, waiting)
            else:
                await asyncio.to_thread(self._check_size, job.code.size_bytes)
                await self._download(job.code.digest, job.code.size_bytes, fetched, waiting)
            await asyncio.to_thread(self._check, fetched, checked)
            fetched.unlink()
            yield checked
        finally:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    async def _check_out(
        self, source: jobs_pb2.GitSource, folder: Path, target: Path, waiting: Callable[[str], None]
    ) -> None:
        patch = None
        if source.patch_digest:
            patch = folder / "patch"
            await self._download(source.patch_digest, None, patch, waiting)
        checkout = folder / "git"
        checkout.mkdir()
        tree = await self._checkouts.make(source, checkout, patch, waiting)
        await asyncio.to_thread(checkouts.pack, tree, target)
        await asyncio.to_thread(shutil.rmtree, checkout)

    def _check_size(self, size: int) -> None:
        if size > self._bounds.total_bytes:
            raise InvalidArgument(
                f"the source archive has {size} bytes, more than {self._bounds.total_bytes}; leave data out "
                "of it",
                reason="UNSAFE_ARCHIVE",
            )
        free = shutil.disk_usage(self._work).free
        if _COPIES * size > free:
            raise ResourceExhausted(
                f"a source of {size / 2**20:,.0f} MiB takes twice that in {self._work} on this node, which "
                f"has room for {free / 2**20:,.0f} MiB; free some, or leave data out of the job's source",
                reason="NO_SPACE",
            )

    async def _download(
        self, digest: str, size: int | None, target: Path, waiting: Callable[[str], None]
    ) -> None:
        await retrying(
            lambda: self._registry.download(digest, size, target),
            what="fetching the source",
            patience_s=None,
            waiting=waiting,
        )

    def _check(self, fetched: Path, checked: Path) -> None:
        source: IO[bytes]
        with fetched.open("rb") as source, checked.open("wb") as target:
            archives.copy_below(source, target, FOLDER, _OWNER, self._bounds)
