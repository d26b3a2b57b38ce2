"""Tar archives made as they are sent."""

import asyncio
import tarfile
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["Entry", "file_chunks", "stream"]

_CHUNK_BYTES: Final = 1024 * 1024


@dataclass(frozen=True)
class Entry:
    """A member to be: a folder, or a file with its content or the path of its content."""

    name: str
    content: bytes | Path | None
    """None: a folder."""
    mode: int = 0o644
    owner: int = 0
    modified: int = 0
    """When, in seconds since 1970."""


async def stream(entries: Iterable[Entry]) -> AsyncIterator[bytes]:
    """Give an uncompressed tar archive of some entries, in their order."""
    for entry in entries:
        info = tarfile.TarInfo(entry.name)
        info.mode = entry.mode
        info.uid = info.gid = entry.owner
        info.mtime = entry.modified
        if entry.content is None:
            info.type = tarfile.DIRTYPE
            yield info.tobuf(tarfile.PAX_FORMAT)
            continue
        info.size = len(entry.content) if isinstance(entry.content, bytes) else entry.content.stat().st_size
        yield info.tobuf(tarfile.PAX_FORMAT)
        if isinstance(entry.content, bytes):
            yield entry.content
        else:
            async for chunk in file_chunks(entry.content):
                yield chunk
        yield bytes(-info.size % tarfile.BLOCKSIZE)
    yield bytes(2 * tarfile.BLOCKSIZE)


async def file_chunks(path: Path) -> AsyncIterator[bytes]:
    """Give a file's bytes in pieces of at most 1 MiB."""
    with path.open("rb") as file:
        while chunk := await asyncio.to_thread(file.read, _CHUNK_BYTES):
            yield chunk
