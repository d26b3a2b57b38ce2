"""Outputs: from a container's folder to an artifact of the run, in bounded memory."""

import asyncio
import hashlib
import tarfile
import uuid
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from towline.client.parallel import in_parallel
from towline.errors import InvalidArgument
from towline.v1 import artifacts_pb2
from towline_agent.core.containers import OUTPUTS
from towline_agent.engine.port import ContainerId, Engine
from towline_agent.registry import FileSlice, Registry

__all__ = ["Outputs", "collect", "upload"]

_MOST_FILES: Final = 100_000
# Each holds a few messages of 1 MiB in memory.
_UPLOADS_AT_ONCE: Final = 16
_NAMESPACE: Final = uuid.UUID("6a2f3d0e-8f0b-4f57-9e0e-3f1f4c8f8a55")


@dataclass(frozen=True)
class Outputs:
    """What a run has left, in a tar archive on disk."""

    files: list[artifacts_pb2.ArtifactFile]
    contents: dict[str, FileSlice]
    """By digest."""
    skipped: list[str]
    """One line for people for each thing that is not kept."""


async def collect(engine: Engine, container: ContainerId, target: Path) -> Outputs:
    """Read the outputs folder of an ended container into a file and list what is in it.

    Raises:
        InvalidArgument: There are more files than an artifact may have.
        NotFound: The container is gone.
    """
    with target.open("wb") as file:
        async for chunk in engine.get_archive(container, OUTPUTS):
            await asyncio.to_thread(file.write, chunk)
    return await asyncio.to_thread(_list, target)


async def upload(registry: Registry, run: str, epoch: int, outputs: Outputs) -> str:
    """Store outputs as an artifact and return its version's name; empty if there is nothing to keep.

    Safe to repeat: what is there is not sent again, and one attempt makes one version.
    """
    if not outputs.files:
        return ""
    lacking = await registry.missing(sorted(outputs.contents))
    await in_parallel(
        lacking, lambda digest: registry.upload(digest, outputs.contents[digest]), at_once=_UPLOADS_AT_ONCE
    )
    request_id = str(uuid.uuid5(_NAMESPACE, f"{run}/{epoch}"))
    return await registry.create_outputs(run, request_id, outputs.files)


def _list(path: Path) -> Outputs:
    outputs = Outputs([], {}, [])
    linked: dict[str, artifacts_pb2.ArtifactFile] = {}
    with tarfile.open(path, mode="r:") as archive:
        for member in archive:
            name = str(PurePosixPath(*PurePosixPath(member.name).parts[1:]))
            if member.isdir():
                continue
            try:
                name.encode()
            except UnicodeEncodeError:
                outputs.skipped.append(f"{name!r} is not kept: its name is not UTF-8")
                continue
            if member.isreg():
                content = FileSlice(path, member.offset_data, member.size)
                file = artifacts_pb2.ArtifactFile(
                    path=name,
                    digest=_digest(content),
                    size_bytes=member.size,
                    executable=bool(member.mode & 0o100),
                )
                outputs.contents[file.digest] = content
                linked[member.name] = file
            elif member.islnk() and member.linkname in linked:
                file = artifacts_pb2.ArtifactFile()
                file.CopyFrom(linked[member.linkname])
                file.path = name
            else:
                outputs.skipped.append(f"{name!r} is not kept: only files and folders are")
                continue
            outputs.files.append(file)
    if len(outputs.files) > _MOST_FILES:
        raise InvalidArgument(
            f"the outputs are {len(outputs.files)} files, more than {_MOST_FILES}; pack them into archives",
            reason="TOO_MANY_OUTPUTS",
        )
    outputs.files.sort(key=lambda file: file.path)
    return outputs


def _digest(content: FileSlice) -> str:
    sha256 = hashlib.sha256()
    for data in content.read(0):
        sha256.update(data)
    return f"sha256:{sha256.hexdigest()}"
