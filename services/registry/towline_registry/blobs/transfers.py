"""How blobs come in and go out: spool, check, keep, record."""

import asyncio
import errno
import logging
from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Final
from uuid import uuid4

from sqlalchemy.ext.asyncio import AsyncEngine

from towline.errors import InvalidArgument, ResourceExhausted, Unavailable
from towline.service.postgres import transaction
from towline_registry.blobs.spool import Spool, SpooledUpload
from towline_registry.blobs.store import BlobStore
from towline_registry.core import small_blobs
from towline_registry.core.digests import Digest
from towline_registry.core.objects import ObjectKey, object_key
from towline_registry.core.uploads import Upload, UploadKey, digest_mismatch, offset_mismatch
from towline_registry.storage import blobs
from towline_registry.storage.blobs import Stored

__all__ = ["Progress", "Transfers"]

_log = logging.getLogger(__name__)

# Each takes up to 32 MiB of memory.
_PUTS_AT_ONCE: Final = 16
# Each takes a few times the bytes of a message.
_SMALL_AT_ONCE: Final = 8
_DISK_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class Progress:
    """Where an upload stands: bytes kept, and whether the blob is complete."""

    committed_size: int
    complete: bool


class Transfers:
    """Moves blobs between streams, the spool and the store.

    Args:
        engine: Where blobs are recorded.
        store: Where bytes are kept.
        spool: Where uploads in progress are.
        grace: How long whoever was told that a blob is there may rely on it.
    """

    def __init__(self, engine: AsyncEngine, store: BlobStore, spool: Spool, grace: timedelta) -> None:
        self._engine = engine
        self._store = store
        self._spool = spool
        # Noted seldom enough to cost little, and often enough that most of the grace is left.
        self._fresh = grace / 8
        self._puts = asyncio.Semaphore(_PUTS_AT_ONCE)
        self._small = asyncio.Semaphore(_SMALL_AT_ONCE)

    async def present(self, digests: Collection[Digest]) -> Mapping[Digest, Stored]:
        """Give those of the blobs that are there; each stays for the grace."""
        async with transaction(self._engine) as connection:
            return await blobs.present(connection, digests, self._fresh)

    async def receive(self, upload: Upload, pieces: AsyncIterator[bytes]) -> Progress:
        """Take the bytes of one stream; a stream that ends early leaves what came.

        Raises:
            FailedPrecondition: It does not start where the upload stands (UPLOAD_OFFSET_MISMATCH).
            Unavailable: Another stream of the upload has not ended (UPLOAD_IN_PROGRESS).
            InvalidArgument: More bytes than announced, or others (DIGEST_MISMATCH); they are dropped.
            ResourceExhausted: The spool's disk is full (SPOOL_FULL).
        """
        if present := await self._find(upload.key.digest):
            self._spool.drop(upload.key)
            return Progress(present.size_bytes, complete=True)
        with _disk_full_translated(), self._spool.holding(upload.key) as spooled:
            if spooled.sealed and spooled.size != upload.size_bytes:
                spooled.drop()
                raise offset_mismatch(upload, 0)
            if spooled.size != upload.offset:
                raise offset_mismatch(upload, await asyncio.to_thread(spooled.settle))
            if spooled.size:
                await asyncio.to_thread(spooled.rehash)
            await _append(upload, spooled, pieces)
            if spooled.size < upload.size_bytes:
                return Progress(await asyncio.to_thread(spooled.settle), complete=False)
            await self._keep(upload, spooled)
            return Progress(upload.size_bytes, complete=True)

    async def status(self, key: UploadKey) -> Progress:
        """Say where an upload stands; its bytes are durable when this returns."""
        if present := await self._find(key.digest):
            return Progress(present.size_bytes, complete=True)
        return Progress(await asyncio.to_thread(self._spool.committed_size, key), complete=False)

    async def receive_small(self, contents: Mapping[Digest, bytes]) -> None:
        """Keep many small blobs.

        Raises:
            InvalidArgument: One has another digest than it should (DIGEST_MISMATCH); none is kept then.
        """
        async with self._small:
            await asyncio.to_thread(small_blobs.verify, contents)
            new = {digest: Stored(len(data), _new_key(digest)) for digest, data in contents.items()}
            await self._store.put_small({new[digest].key: data for digest, data in contents.items()})
            await self._record(new)

    async def send(self, digest: Digest, offset: int) -> tuple[int, AsyncIterator[bytes]]:
        """Give the size of a blob in bytes and its bytes from an offset, in pieces of at most 1 MiB.

        Raises:
            NotFound: There is no such blob (BLOB_NOT_FOUND).
            InvalidArgument: The offset lies outside the blob.
        """
        found = await self._find(digest)
        if found is None:
            raise blobs.not_found([digest])
        size = found.size_bytes
        if not 0 <= offset <= size:
            raise InvalidArgument.field("offset", f"{offset} is not within 0 to {size}, the size of the blob")
        return size, self._store.read(found.key, start=offset, end=size)

    async def send_small(self, digests: Sequence[Digest]) -> AsyncIterator[Sequence[tuple[Digest, bytes]]]:
        """Give small blobs whole, in the order asked for, some at a time.

        Raises:
            NotFound: Some are not there (BLOB_NOT_FOUND).
            InvalidArgument: One is too large for this; names `digests`.
        """
        found = await self.present(digests)
        if missing := [digest for digest in digests if digest not in found]:
            raise blobs.not_found(missing)
        sizes = [(digest, found[digest].size_bytes) for digest in digests]
        for group in small_blobs.grouped(sizes):
            wanted = {found[digest].key: found[digest].size_bytes for digest in group}
            async with self._small:
                read = dict(zip(wanted, await self._store.read_small(wanted), strict=True))
            yield [(digest, read[found[digest].key]) for digest in group]

    async def _keep(self, upload: Upload, spooled: SpooledUpload) -> None:
        digest = spooled.digest()
        if digest != upload.key.digest:
            spooled.drop()
            raise digest_mismatch(upload, digest)
        key = _new_key(digest)
        async with self._puts:
            await self._store.put(key, spooled.path, spooled.size)
        await self._record({digest: Stored(spooled.size, key)})
        spooled.drop()

    async def _record(self, new: Mapping[Digest, Stored]) -> None:
        async with transaction(self._engine) as connection:
            not_needed = await blobs.add(connection, new)
        if not_needed:
            try:
                await self._store.delete(sorted(not_needed))
            except Unavailable as error:  # the collector finds them
                _log.warning(
                    "%d objects that are not needed stay for now: %s", len(not_needed), error.message
                )

    async def _find(self, digest: Digest) -> Stored | None:
        return (await self.present([digest])).get(digest)


async def _append(upload: Upload, spooled: SpooledUpload, pieces: AsyncIterator[bytes]) -> None:
    """Write pieces to the spool, each while the next one comes in."""
    loop = asyncio.get_running_loop()
    reached = spooled.size
    writing: asyncio.Future[None] | None = None
    try:
        async for piece in pieces:
            reached += len(piece)
            if reached > upload.size_bytes:
                spooled.drop()
                raise InvalidArgument.field(
                    "data",
                    f"more came than the {upload.size_bytes} bytes of header.size_bytes; all was dropped",
                )
            if writing:
                await writing
            writing = loop.run_in_executor(None, spooled.append, piece)
    finally:  # also where the stream broke: what came is kept
        if writing:
            await writing


def _new_key(digest: Digest) -> ObjectKey:
    return object_key(digest, uuid4().hex[:16])


@contextmanager
def _disk_full_translated() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK_FULL:
            raise
        raise ResourceExhausted(
            "the registry has no room for uploads; make room in its SPOOL_DIR, then go on with the upload",
            reason="SPOOL_FULL",
        ) from error
