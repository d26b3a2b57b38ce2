"""An artifact version as a tar archive that is made while it comes from the registry, in bounded memory."""

import asyncio
import hashlib
import tarfile
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from random import random
from typing import Final

from towline.errors import DeadlineExceeded, InvalidArgument, NotFound, Unavailable
from towline.v1 import artifacts_pb2
from towline_agent.core.backoff import Backoff
from towline_agent.registry import MAX_SMALL_BLOB_BYTES, MAX_SMALL_BLOBS, Registry

__all__ = ["InputArchive"]

# As many parts as this are on their way at once; each holds at most so many pieces of up to 1 MiB.
_PARTS_AT_ONCE: Final = 8
_PIECES_HELD: Final = 4
_BATCH_BYTES: Final = 4 * 1024 * 1024

_File = artifacts_pb2.ArtifactFile


@dataclass(frozen=True)
class _Part:
    """Files that come in one call: one of any size, or many small ones; `folders` come before them."""

    folders: Sequence[str]
    files: Sequence[_File]
    pieces: "asyncio.Queue[bytes | None]" = field(default_factory=lambda: asyncio.Queue(_PIECES_HELD))


class InputArchive:
    """The files of one artifact version. `feed` and `pieces` run side by side, each once.

    Args:
        registry: Where the files come from.
        version: With its files, by path.
        moved: Told each time how many more bytes of files have come.
        waiting: Told why it takes longer, where the registry is away.
    """

    def __init__(
        self,
        registry: Registry,
        version: artifacts_pb2.ArtifactVersion,
        moved: Callable[[int], None],
        waiting: Callable[[str], None],
    ) -> None:
        self._registry = registry
        self._moved = moved
        self._waiting = waiting
        self._time = version.create_time.seconds
        self._parts = list(_parts(version.files))
        self._window = asyncio.Semaphore(_PARTS_AT_ONCE)

    async def feed(self) -> None:
        """Fetch the files, several at a time, as far ahead of the reader as memory allows; all are checked.

        A registry that is away is waited for.

        Raises:
            NotFound: It has not all of them; reason BLOB_NOT_FOUND.
            InvalidArgument: One has another size or digest (BLOB_SIZE_MISMATCH, DIGEST_MISMATCH).
        """
        left = iter(self._parts)

        async def worker() -> None:
            while True:
                # Before a part is taken, so that the one that is read next is always on its way.
                await self._window.acquire()
                if (part := next(left, None)) is None:
                    return
                await self._fetch(part)

        async with asyncio.TaskGroup() as group:
            for _ in range(min(_PARTS_AT_ONCE, len(self._parts))):
                group.create_task(worker())

    async def pieces(self) -> AsyncIterator[bytes]:
        """Give the archive's bytes; one that `feed` could not finish does not end."""
        for part in self._parts:
            while (piece := await part.pieces.get()) is not None:
                yield piece
            self._window.release()
        yield bytes(2 * tarfile.BLOCKSIZE)

    async def _fetch(self, part: _Part) -> None:
        members = [self._header(folder, None) for folder in part.folders]
        if len(part.files) == 1 and part.files[0].size_bytes > MAX_SMALL_BLOB_BYTES:
            (file,) = part.files
            await part.pieces.put(b"".join([*members, self._header(file.path, file)]))
            await self._fetch_large(file, part.pieces)
        else:
            contents = await self._fetch_small(part.files)
            for file in part.files:
                data = contents[file.digest]
                members += [self._header(file.path, file), data, _padding(file)]
                self._moved(len(data))
            await part.pieces.put(b"".join(members))
        await part.pieces.put(None)

    async def _fetch_large(self, file: _File, pieces: "asyncio.Queue[bytes | None]") -> None:
        computed, have = hashlib.sha256(), 0
        backoff = Backoff(random)
        while have < file.size_bytes:
            try:
                async with aclosing(self._registry.read(file.digest, have)) as coming:
                    async for data in coming:
                        have += len(data)
                        if have > file.size_bytes:
                            raise _other_size(file)
                        await asyncio.to_thread(computed.update, data)
                        await pieces.put(data)
                        self._moved(len(data))
                        backoff.succeeded()
            except (Unavailable, DeadlineExceeded) as error:
                await self._pause(error.message, backoff)
            else:
                if have < file.size_bytes:
                    raise _other_size(file)
        _check(file, computed)
        await pieces.put(_padding(file))

    async def _fetch_small(self, files: Sequence[_File]) -> Mapping[str, bytes]:
        by_digest = {file.digest: file for file in files}
        contents: dict[str, bytes] = {}
        backoff = Backoff(random)
        while left := [digest for digest in by_digest if digest not in contents]:
            try:
                async with aclosing(self._registry.read_small(left)) as coming:
                    async for digest, data in coming:
                        if len(data) != by_digest[digest].size_bytes:
                            raise _other_size(by_digest[digest])
                        _check(by_digest[digest], hashlib.sha256(data))
                        contents[digest] = data
            except (Unavailable, DeadlineExceeded) as error:
                await self._pause(error.message, backoff)
            else:
                if lacking := [by_digest[digest].path for digest in left if digest not in contents]:
                    raise NotFound(f"the registry left out {lacking[0]}", reason="BLOB_NOT_FOUND")
        return contents

    async def _pause(self, why: str, backoff: Backoff) -> None:
        self._waiting(why)
        await asyncio.sleep(backoff.failed())

    def _header(self, path: str, file: _File | None) -> bytes:
        info = tarfile.TarInfo(path)
        info.mtime = self._time
        info.mode = 0o755 if file is None or file.executable else 0o644
        if file is None:
            info.type = tarfile.DIRTYPE
        else:
            info.size = file.size_bytes
        return info.tobuf(tarfile.PAX_FORMAT)


def _parts(files: Iterable[_File]) -> Iterator[_Part]:
    """Put small files together and leave each large one alone; folders come with the first file in them."""
    known: set[str] = set()
    folders: list[str] = []
    batch: list[_File] = []
    size = 0
    for file in files:
        large = file.size_bytes > MAX_SMALL_BLOB_BYTES
        full = len(batch) == MAX_SMALL_BLOBS or size + file.size_bytes > _BATCH_BYTES
        if batch and (large or full):
            yield _Part(folders, batch)
            folders, batch, size = [], [], 0
        folders += _new_folders(file.path, known)
        if large:
            yield _Part(folders, [file])
            folders = []
        else:
            batch.append(file)
            size += file.size_bytes
    if batch:
        yield _Part(folders, batch)


def _new_folders(path: str, known: set[str]) -> list[str]:
    """Give the folders above a file that did not come before, from the outermost on; they are known then."""
    new = []
    folder = path.rpartition("/")[0]
    while folder and folder not in known:
        known.add(folder)
        new.append(folder)
        folder = folder.rpartition("/")[0]
    return new[::-1]


def _padding(file: _File) -> bytes:
    return bytes(-file.size_bytes % tarfile.BLOCKSIZE)


def _other_size(file: _File) -> InvalidArgument:
    return InvalidArgument(
        f"{file.path} has not the {file.size_bytes} bytes that its manifest says",
        reason="BLOB_SIZE_MISMATCH",
    )


def _check(file: _File, computed: "hashlib._Hash") -> None:
    if file.digest != f"sha256:{computed.hexdigest()}":
        raise InvalidArgument(
            f"{file.path} came with another content than {file.digest}; the registry's storage or the way to "
            "it is damaged",
            reason="DIGEST_MISMATCH",
        )
