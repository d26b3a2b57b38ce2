"""Where bytes are kept: the port, and its adapters over obstore."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol
from urllib.parse import urlsplit
from urllib.request import url2pathname

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, ObjectStore, from_url

from towline.errors import Internal, InvalidArgument, Unavailable
from towline.rpc.channel import MAX_CHUNK_BYTES
from towline_registry.blobs.durable import settle
from towline_registry.core.digests import Digest, hex_digits, of

if TYPE_CHECKING:  # obstore has these for type checkers alone
    from obstore.store import ClientConfig, RetryConfig

__all__ = ["BlobStore", "FolderBlobs", "ObjectBlobs", "open_blob_store"]

# One request to the object store; memory of one transfer is a few of these.
_PART_BYTES: Final = 8 * 1024 * 1024
_PARTS_AT_ONCE: Final = 4
# S3 takes at most 10,000 parts of one object.
_MAX_PARTS: Final = 9_000
_REMOTE: Final = ("s3", "gs", "az")
_CLIENT_OPTIONS: Final["ClientConfig"] = {
    # Without an end to each request, a stalled one would hold its caller for good.
    "connect_timeout": timedelta(seconds=5),
    "timeout": timedelta(minutes=2),
    # Whoever sets an http:// endpoint means it.
    "allow_http": True,
}
_RETRIES: Final["RetryConfig"] = {"max_retries": 4, "retry_timeout": timedelta(seconds=30)}


class BlobStore(Protocol):
    """Keeps bytes by digest.

    Every method raises Unavailable (BLOB_STORE_UNAVAILABLE) where the store does not answer or refuses.
    """

    async def put(self, digest: Digest, source: Path, size_bytes: int) -> None:
        """Keep the bytes of a file of this size; when it returns they are durable. Again does no harm."""
        ...

    def read(self, digest: Digest, *, start: int, end: int) -> AsyncIterator[bytes]:
        """Give the bytes from `start` up to `end`, in order, in pieces of at most 1 MiB.

        Raises:
            Internal: The bytes are not there, or not all of them; reason BLOB_LOST.
        """
        ...


class ObjectBlobs:
    """A BlobStore on any store that obstore knows; an object is whole or not there.

    Args:
        store: The store; blobs lie in it as blobs/sha256/ab/cdef….
        url: Where it is, for messages.
    """

    def __init__(self, store: ObjectStore, url: str) -> None:
        self._store = store
        self._url = url

    async def put(self, digest: Digest, source: Path, size_bytes: int) -> None:
        """See BlobStore."""
        with self._translated():
            await obstore.put_async(
                self._store,
                _key(digest),
                source,
                chunk_size=max(_PART_BYTES, -(-size_bytes // _MAX_PARTS)),
                max_concurrency=_PARTS_AT_ONCE,
            )

    async def read(self, digest: Digest, *, start: int, end: int) -> AsyncIterator[bytes]:
        """See BlobStore."""
        # Range by range: a reader that pauses holds neither a connection nor more than one part.
        for first in range(start, end, _PART_BYTES):
            last = min(first + _PART_BYTES, end)
            with self._translated():
                try:
                    part = await obstore.get_range_async(self._store, _key(digest), start=first, end=last)
                except FileNotFoundError:
                    part = None
            if part is None or len(part) != last - first:
                raise Internal(
                    f"the blob {digest} is recorded, but its bytes are not in {self._url}; "
                    "restore them from a backup, or set BLOB_URL to where they are",
                    reason="BLOB_LOST",
                    metadata={"digest": digest},
                )
            view = memoryview(part)
            for offset in range(0, len(view), MAX_CHUNK_BYTES):
                yield bytes(view[offset : offset + MAX_CHUNK_BYTES])

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (BaseError, OSError, ValueError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise Unavailable(
                f"the object store ({self._url}) failed: {reason}", reason="BLOB_STORE_UNAVAILABLE"
            ) from error


class FolderBlobs(ObjectBlobs):
    """A BlobStore in a local folder, which is made if it is not there.

    Args:
        folder: The folder.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(LocalStore(folder, mkdir=True), folder.as_uri())
        self._folder = folder
        # Folders that are themselves durable entries of those above them; there are 256 at most.
        self._settled: set[Path] = set()

    async def put(self, digest: Digest, source: Path, size_bytes: int) -> None:
        """See BlobStore."""
        await super().put(digest, source, size_bytes)
        with self._translated():
            await asyncio.to_thread(self._settle, self._folder / _key(digest))

    def _settle(self, file: Path) -> None:
        """Make a file survive a power cut, which obstore leaves to the operating system."""
        settle(file)
        settle(file.parent)
        if file.parent in self._settled:
            return
        for folder in file.parent.parents:
            settle(folder)
            if folder == self._folder:
                break
        self._settled.add(file.parent)


async def open_blob_store(url: str) -> BlobStore:
    """Open the store that BLOB_URL names and see that it takes bytes.

    Raises:
        InvalidArgument: The URL is none that is taken; reason INVALID_FIELD.
        Unavailable: The folder cannot be made, or the store takes nothing; reason BLOB_STORE_UNAVAILABLE.
    """
    store = _opened(url)
    # The empty blob: a missing bucket or a wrong key shows now and not at the first upload.
    await store.put(of(b""), Path(os.devnull), 0)
    return store


def _opened(url: str) -> BlobStore:
    parts = urlsplit(url)
    try:
        if parts.scheme == "file" and not parts.netloc and len(parts.path) > 1:
            return FolderBlobs(Path(url2pathname(parts.path)))
        if parts.scheme in _REMOTE and parts.netloc:
            store = from_url(url, client_options=_CLIENT_OPTIONS, retry_config=_RETRIES)
            return ObjectBlobs(store, url)
    except (BaseError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise Unavailable(
            f"BLOB_URL: {url} cannot be opened: {reason}", reason="BLOB_STORE_UNAVAILABLE"
        ) from error
    raise InvalidArgument.field(
        "BLOB_URL",
        f"{url!r} is not taken; write file:///folder, s3://bucket/prefix, gs://bucket/prefix "
        "or az://account/container/prefix",
    )


def _key(digest: Digest) -> str:
    digits = hex_digits(digest)
    return f"blobs/sha256/{digits[:2]}/{digits[2:]}"
