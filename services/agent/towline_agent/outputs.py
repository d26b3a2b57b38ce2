"""Files that a run has left, from its container's folders to artifacts, in bounded memory."""

import asyncio
import hashlib
import tarfile
import uuid
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Final

from towline.client.parallel import in_parallel
from towline.errors import InvalidArgument, NotFound
from towline.runtime.artifacts import is_utf8
from towline.v1 import artifacts_pb2, runs_pb2
from towline_agent.core.containers import OUTPUTS, UNTOUCHED
from towline_agent.engine.port import ContainerId, Engine
from towline_agent.registry import FileSlice, Registry

__all__ = ["FileList", "collect", "fetch", "outputs_request", "request_id", "upload", "written"]

_MOST_FILES: Final = 100_000
_OUTPUTS: Final = "the outputs"
# Each holds a few messages of 1 MiB in memory.
_UPLOADS_AT_ONCE: Final = 16
_NAMESPACE: Final = uuid.UUID("6a2f3d0e-8f0b-4f57-9e0e-3f1f4c8f8a55")


@dataclass
class FileList:
    """The files of one artifact to be, in a tar archive on disk.

    Args:
        archive: The tar archive.
        called: What they are to people, such as "the outputs".
    """

    archive: Path
    called: str
    files: list[artifacts_pb2.ArtifactFile] = field(default_factory=list)
    contents: dict[str, FileSlice] = field(default_factory=dict)
    """By digest."""
    skipped: list[str] = field(default_factory=list)
    """One line for people for each thing that is not kept."""
    _linked: dict[str, artifacts_pb2.ArtifactFile] = field(default_factory=dict)

    def add(self, member: tarfile.TarInfo, path: str) -> None:
        """Take a member of the archive.

        Args:
            member: It.
            path: Its path in the artifact.

        Raises:
            InvalidArgument: They are more than an artifact may have.
        """
        if member.isdir():
            return
        # At once, and not when all are read: a program may leave more than there is memory for.
        if len(self.files) + len(self.skipped) == _MOST_FILES:
            raise InvalidArgument(
                f"{self.called} are more than {_MOST_FILES} files; pack them into archives",
                reason="TOO_MANY_OUTPUTS",
            )
        if not is_utf8(path):
            self.skipped.append(f"{path!r} is not kept: its name is not UTF-8")
            return
        if member.isreg():
            content = FileSlice(self.archive, member.offset_data, member.size)
            file = artifacts_pb2.ArtifactFile(
                path=path,
                digest=_digest(content),
                size_bytes=member.size,
                executable=bool(member.mode & 0o100),
            )
            self.contents[file.digest] = content
            self._linked[member.name] = file
        elif member.islnk() and member.linkname in self._linked:
            file = artifacts_pb2.ArtifactFile()
            file.CopyFrom(self._linked[member.linkname])
            file.path = path
        else:
            self.skipped.append(f"{path!r} is not kept: only files and folders are")
            return
        self.files.append(file)

    def sort(self) -> None:
        """Bring the files into the order of their paths."""
        self.files.sort(key=lambda file: file.path)


async def written(engine: Engine, container: ContainerId, folders: Collection[str]) -> set[str]:
    """Return those folders of an ended container in which something was made, or that are gone.

    Only they need be read: an archive costs the engine a process of its own, that of an empty folder too.
    """
    found = set(folders)

    async def look(folder: str) -> None:
        with suppress(NotFound):  # who reads it is told
            if await engine.modified(container, folder) == UNTOUCHED:
                found.discard(folder)

    await in_parallel(folders, look, at_once=len(folders))
    return found


async def fetch(engine: Engine, container: ContainerId, path: str, target: Path) -> None:
    """Read a folder of an ended container into a tar archive.

    Raises:
        NotFound: There is none, or the container is gone.
    """
    with target.open("wb") as file:
        async for chunk in engine.get_archive(container, path):
            await asyncio.to_thread(file.write, chunk)


async def collect(engine: Engine, container: ContainerId, target: Path) -> FileList:
    """Read the outputs folder of an ended container into a file and list what is in it.

    Raises:
        InvalidArgument: There are more files than an artifact may have.
        NotFound: The container is gone.
    """
    await fetch(engine, container, OUTPUTS, target)
    return await asyncio.to_thread(_list, target)


async def upload(
    registry: Registry, request: artifacts_pb2.CreateArtifactVersionRequest, found: FileList
) -> str:
    """Store files as a version of an artifact and return its name; empty if there is nothing to keep.

    Safe to repeat: what is there is not sent again, and one request makes one version.

    Args:
        registry: Where they go.
        request: All but the files.
        found: These.
    """
    if not found.files:
        return ""
    lacking = await registry.missing(sorted(found.contents))
    await in_parallel(
        lacking, lambda digest: registry.upload(digest, found.contents[digest]), at_once=_UPLOADS_AT_ONCE
    )
    whole = artifacts_pb2.CreateArtifactVersionRequest(files=found.files)
    whole.MergeFrom(request)
    return await registry.create_version(whole)


def outputs_request(spec: runs_pb2.LaunchSpec, epoch: int) -> artifacts_pb2.CreateArtifactVersionRequest:
    """Ask for the artifact of an attempt's outputs; without its files."""
    return artifacts_pb2.CreateArtifactVersionRequest(
        request_id=request_id(spec, epoch),
        artifact=f"artifacts/outputs-{spec.run.removeprefix('runs/')}",
        type="outputs",
        producer_run=spec.run,
        producer_job_version=spec.job_version,
    )


def request_id(spec: runs_pb2.LaunchSpec, epoch: int, *more: str) -> str:
    """Make the idempotency key of something that one attempt makes once."""
    return str(uuid.uuid5(_NAMESPACE, "/".join([spec.run, str(epoch), *more])))


def _list(path: Path) -> FileList:
    found = FileList(path, _OUTPUTS)
    with tarfile.open(path, mode="r:") as archive:
        for member in archive:
            found.add(member, str(PurePosixPath(*PurePosixPath(member.name).parts[1:])))
    found.sort()
    return found


def _digest(content: FileSlice) -> str:
    sha256 = hashlib.sha256()
    for data in content.read(0):
        sha256.update(data)
    return f"sha256:{sha256.hexdigest()}"
