"""Source trees: from the registry or from git, as one archive that was judged safe."""

import asyncio
import os
import shutil
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO, Final

from towline.errors import InvalidArgument, NotFound
from towline.v1 import jobs_pb2
from towline_agent.core import archives
from towline_agent.registry import Registry
from towline_agent.retry import retrying

__all__ = ["Sources"]

_OWNER: Final = 1000
_FOLDER: Final = "workspace"
_GIT_LAST_LINES: Final = 5


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
        self._git_protocols = git_protocols
        self._bounds = bounds or archives.Bounds()

    @asynccontextmanager
    async def archive(self, job: jobs_pb2.JobSpec, waiting: Callable[[str], None]) -> AsyncIterator[Path]:
        """Give a tar archive in which the source tree lies in "workspace"; it is gone after the block.

        Args:
            job: With a code or git source.
            waiting: Told why it takes longer.

        Raises:
            InvalidArgument: The archive is damaged, unsafe or too large.
            NotFound: The registry does not have it, or git cannot fetch it (GIT_FETCH_FAILED).
        """
        folder = self._work / f"source-{uuid.uuid4().hex}"
        folder.mkdir()
        try:
            fetched, checked = folder / "fetched.tar", folder / "checked.tar"
            if job.WhichOneof("source") == "git":
                await self._clone(job.git, folder / "git", fetched)
            else:
                await self._download(job.code, fetched, waiting)
            await asyncio.to_thread(self._check, fetched, checked)
            fetched.unlink()
            yield checked
        finally:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    async def _download(
        self, code: jobs_pb2.CodeSource, target: Path, waiting: Callable[[str], None]
    ) -> None:
        if code.size_bytes > self._bounds.total_bytes:
            raise InvalidArgument(
                f"the source archive has {code.size_bytes} bytes, more than {self._bounds.total_bytes}; "
                "leave data out of it",
                reason="UNSAFE_ARCHIVE",
            )
        await retrying(
            lambda: self._registry.download(code.digest, code.size_bytes, target),
            what="fetching the source",
            patience_s=None,
            waiting=waiting,
        )

    def _check(self, fetched: Path, checked: Path) -> None:
        source: IO[bytes]
        with fetched.open("rb") as source, checked.open("wb") as target:
            archives.copy_below(source, target, _FOLDER, _OWNER, self._bounds)

    async def _clone(self, source: jobs_pb2.GitSource, folder: Path, target: Path) -> None:
        await asyncio.to_thread(folder.mkdir)
        subfolder = source.subfolder.strip("/")
        tree = f"{source.commit}:{subfolder}" if subfolder else source.commit
        await self._git(folder, "init", "--quiet", "--bare")
        # One commit where the server allows it, else everything.
        if not await self._git(folder, "fetch", "--quiet", "--depth=1", "--", source.remote, source.commit):
            refs = "+refs/*:refs/remotes/origin/*"
            await self._git(folder, "fetch", "--quiet", "--", source.remote, refs, about=source)
        await self._git(folder, "archive", "--format=tar", f"--output={target}", tree, about=source)

    async def _git(self, folder: Path, *arguments: str, about: jobs_pb2.GitSource | None = None) -> bool:
        """Run git; a failure raises NotFound where `about` says for what, and is False elsewhere."""
        environment = os.environ | {
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_ALLOW_PROTOCOL": ":".join(self._git_protocols),
            "GIT_LFS_SKIP_SMUDGE": "1",
        }
        process = await asyncio.create_subprocess_exec(
            "git",
            *arguments,
            cwd=folder,
            env=environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,  # a Ctrl-C on the agent is not meant for git
        )
        try:
            _, errors = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode and about is not None:
            lines = errors.decode(errors="replace").strip().splitlines()[-_GIT_LAST_LINES:]
            raise NotFound(
                f"git cannot get commit {about.commit[:12]} of {about.remote}: {' '.join(lines)}",
                reason="GIT_FETCH_FAILED",
            )
        return process.returncode == 0
