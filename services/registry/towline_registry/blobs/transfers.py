"""How blobs come in and go out: spool, check, keep, record."""

import asyncio
import errno
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from sqlalchemy.ext.asyncio import AsyncEngine

from towline.errors import InvalidArgument, ResourceExhausted
from towline.service.postgres import transaction
from towline_registry.blobs.spool import Spool, SpooledUpload
from towline_registry.blobs.store import BlobStore
from towline_registry.core.digests import Digest
from towline_registry.core.uploads import Upload, UploadKey, digest_mismatch, offset_mismatch
from towline_registry.storage import blobs

__all__ = ["Progress", "Transfers"]

# Each takes up to 32 MiB of memory.
_PUTS_AT_ONCE: Final = 16
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
    """

    def __init__(self, engine: AsyncEngine, store: BlobStore, spool: Spool) -> None:
        self._engine = engine
        self._store = store
        self._spool = spool
        self._puts = asyncio.Semaphore(_PUTS_AT_ONCE)

    async def receive(self, upload: Upload, pieces: AsyncIterator[bytes]) -> Progress:
        """Take the bytes of one stream; a stream that ends early leaves what came.

        Raises:
            FailedPrecondition: It does not start where the upload stands (UPLOAD_OFFSET_MISMATCH).
            Unavailable: Another stream of the upload has not ended (UPLOAD_IN_PROGRESS).
            InvalidArgument: More bytes than announced, or others (DIGEST_MISMATCH); they are dropped.
            ResourceExhausted: The spool's disk is full (SPOOL_FULL).
        """
        present = await self._size(upload.key.digest)
        if present is not None:
            self._spool.drop(upload.key)
            return Progress(present, complete=True)
        with _disk_full_translated(), self._spool.holding(upload.key) as spooled:
            if spooled.size != upload.offset:
                raise offset_mismatch(upload, await asyncio.to_thread(spooled.settle))
            if spooled.size:
                await asyncio.to_thread(spooled.rehash)
            async for piece in pieces:
                if spooled.size + len(piece) > upload.size_bytes:
                    spooled.drop()
                    raise InvalidArgument.field(
                        "data",
                        f"more came than the {upload.size_bytes} bytes of header.size_bytes; all was dropped",
                    )
                await asyncio.to_thread(spooled.append, piece)
            if spooled.size < upload.size_bytes:
                return Progress(await asyncio.to_thread(spooled.settle), complete=False)
            await self._keep(upload, spooled)
            return Progress(upload.size_bytes, complete=True)

    async def status(self, key: UploadKey) -> Progress:
        """Say where an upload stands; its bytes are durable when this returns."""
        present = await self._size(key.digest)
        if present is not None:
            return Progress(present, complete=True)
        return Progress(await asyncio.to_thread(self._spool.committed_size, key), complete=False)

    async def send(self, digest: Digest, offset: int) -> tuple[int, AsyncIterator[bytes]]:
        """Give the size of a blob in bytes and its bytes from an offset, in pieces of at most 1 MiB.

        Raises:
            NotFound: There is no such blob (BLOB_NOT_FOUND).
            InvalidArgument: The offset lies outside the blob.
        """
        size = await self._size(digest)
        if size is None:
            raise blobs.not_found([digest])
        if not 0 <= offset <= size:
            raise InvalidArgument.field("offset", f"{offset} is not within 0 to {size}, the size of the blob")
        return size, self._store.read(digest, start=offset, end=size)

    async def _keep(self, upload: Upload, spooled: SpooledUpload) -> None:
        digest = spooled.digest()
        if digest != upload.key.digest:
            spooled.drop()
            raise digest_mismatch(upload, digest)
        async with self._puts:
            await self._store.put(digest, spooled.path, spooled.size)
        async with transaction(self._engine) as connection:
            await blobs.add(connection, digest, spooled.size)
        spooled.drop()

    async def _size(self, digest: Digest) -> int | None:
        async with transaction(self._engine) as connection:
            return (await blobs.sizes(connection, [digest])).get(digest)


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
