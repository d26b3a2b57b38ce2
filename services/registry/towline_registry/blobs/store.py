"""Where bytes are kept: the port, and its adapters over obstore."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import urlsplit
from urllib.request import url2pathname

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, ObjectStore, from_url

from towline.errors import Internal, InvalidArgument, Unavailable
from towline.rpc.channel import MAX_CHUNK_BYTES
from towline_registry.blobs import folder
from towline_registry.core.objects import BLOBS, PROBE, ObjectKey, digest_of

if TYPE_CHECKING:  # obstore has these for type checkers alone
    from obstore.store import ClientConfig, RetryConfig

__all__ = ["BlobStore", "FolderBlobs", "ObjectBlobs", "open_blob_store"]

# One request to the object store; memory of one transfer is a few of these.
_PART_BYTES: Final = 8 * 1024 * 1024
_PARTS_AT_ONCE: Final = 4
# Requests for small objects that are under way for one call.
_SMALL_AT_ONCE: Final = 32
# S3 takes at most 10,000 parts of one object.
_MAX_PARTS: Final = 9_000
# As many as one listing of S3 has, and as one of its requests deletes.
_PAGE: Final = 1000
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
    """Keeps the bytes of blobs by object key; each key is put once.

    Every method raises Unavailable (BLOB_STORE_UNAVAILABLE) where the store does not answer or refuses.
    """

    async def put(self, key: ObjectKey, source: Path, size_bytes: int) -> None:
        """Keep the bytes of a file of this size; when it returns they are durable. Again does no harm."""
        ...

    async def put_small(self, contents: Mapping[ObjectKey, bytes]) -> None:
        """Keep many small objects; when it returns all of them are durable."""
        ...

    def read(self, key: ObjectKey, *, start: int, end: int) -> AsyncIterator[bytes]:
        """Give the bytes from `start` up to `end`, in order, in pieces of at most 1 MiB.

        Raises:
            Internal: The bytes are not there, or not all of them; reason BLOB_LOST.
        """
        ...

    async def read_small(self, sizes: Mapping[ObjectKey, int]) -> list[bytes]:
        """Give many small objects of known sizes whole, in the order asked for.

        Raises:
            Internal: One is not there, or has another size; reason BLOB_LOST.
        """
        ...

    async def delete(self, keys: Sequence[ObjectKey]) -> None:
        """Delete objects; those that are not there are none of its business."""
        ...

    def put_before(self, moment: datetime) -> AsyncIterator[Sequence[ObjectKey]]:
        """Give the keys of all objects that were put before a moment, those that a crash cut off included."""
        ...


class ObjectBlobs:
    """A BlobStore on any store that obstore knows; an object is whole or not there.

    Args:
        store: The store.
        url: Where it is, for messages.
    """

    def __init__(self, store: ObjectStore, url: str) -> None:
        self._store = store
        self._url = url

    async def put(self, key: ObjectKey, source: Path, size_bytes: int) -> None:
        """See BlobStore."""
        with self._translated():
            await obstore.put_async(
                self._store,
                key,
                source,
                chunk_size=max(_PART_BYTES, -(-size_bytes // _MAX_PARTS)),
                max_concurrency=_PARTS_AT_ONCE,
            )

    async def put_small(self, contents: Mapping[ObjectKey, bytes]) -> None:
        """See BlobStore."""
        waiting = iter(contents.items())

        async def putting() -> None:
            for key, data in waiting:
                await obstore.put_async(self._store, key, data)

        with self._translated():
            await _some_at_once(putting, len(contents))

    async def read(self, key: ObjectKey, *, start: int, end: int) -> AsyncIterator[bytes]:
        """See BlobStore."""
        # Range by range: a reader that pauses holds neither a connection nor more than one part.
        for first in range(start, end, _PART_BYTES):
            view = memoryview(await self._range(key, first, min(first + _PART_BYTES, end)))
            for offset in range(0, len(view), MAX_CHUNK_BYTES):
                yield bytes(view[offset : offset + MAX_CHUNK_BYTES])

    async def read_small(self, sizes: Mapping[ObjectKey, int]) -> list[bytes]:
        """See BlobStore."""
        found = dict.fromkeys(sizes, b"")
        waiting = iter([(key, size) for key, size in sizes.items() if size])

        async def reading() -> None:
            for key, size in waiting:
                found[key] = await self._range(key, 0, size)

        await _some_at_once(reading, len(sizes))
        return list(found.values())

    async def delete(self, keys: Sequence[ObjectKey]) -> None:
        """See BlobStore."""
        for start in range(0, len(keys), _PAGE):
            page = keys[start : start + _PAGE]
            with self._translated():
                try:
                    await obstore.delete_async(self._store, list(page))
                except FileNotFoundError:  # some stores mind; then the rest of the page may be there still
                    for key in page:
                        await self._delete(key)

    async def _delete(self, key: ObjectKey) -> None:
        try:
            await obstore.delete_async(self._store, key)
        except FileNotFoundError:
            return

    async def put_before(self, moment: datetime) -> AsyncIterator[Sequence[ObjectKey]]:
        """See BlobStore."""
        pages = obstore.list(self._store, BLOBS, chunk_size=_PAGE)
        while True:
            with self._translated():
                page = await anext(pages, None)
            if page is None:
                return
            yield [ObjectKey(found["path"]) for found in page if found["last_modified"] < moment]

    async def _range(self, key: ObjectKey, start: int, end: int) -> bytes:
        with self._translated():
            try:
                part = await obstore.get_range_async(self._store, key, start=start, end=end)
            except FileNotFoundError:
                part = None
        if part is None or len(part) != end - start:
            raise self._lost(key)
        return part.to_bytes()

    def _lost(self, key: ObjectKey) -> Internal:
        digest = digest_of(key)
        return Internal(
            f"the blob {digest} is recorded, but its bytes are not in {self._url}; "
            "restore them from a backup, or set BLOB_URL to where they are",
            reason="BLOB_LOST",
            metadata={"digest": digest},
        )

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
        root: The folder.
    """

    def __init__(self, root: Path) -> None:
        super().__init__(LocalStore(root, mkdir=True), root.as_uri())
        self._folder = folder.Folder(root)

    async def put(self, key: ObjectKey, source: Path, size_bytes: int) -> None:
        """See BlobStore."""
        with self._translated():
            linked = await asyncio.to_thread(self._folder.link, key, source)
        if not linked:
            await super().put(key, source, size_bytes)
        with self._translated():
            await asyncio.to_thread(self._folder.settle, [key])

    async def put_small(self, contents: Mapping[ObjectKey, bytes]) -> None:
        """See BlobStore."""
        with self._translated():
            await asyncio.to_thread(self._folder.write, contents)

    async def read_small(self, sizes: Mapping[ObjectKey, int]) -> list[bytes]:
        """See BlobStore."""
        with self._translated():
            found = await asyncio.to_thread(self._folder.read, list(sizes))
        for (key, size), data in zip(sizes.items(), found, strict=True):
            if data is None or len(data) != size:
                raise self._lost(key)
        return [data for data in found if data is not None]

    async def delete(self, keys: Sequence[ObjectKey]) -> None:
        """See BlobStore."""
        with self._translated():
            await asyncio.to_thread(self._folder.delete, keys)

    async def put_before(self, moment: datetime) -> AsyncIterator[Sequence[ObjectKey]]:
        """See BlobStore."""
        with self._translated():
            for inner in await asyncio.to_thread(self._folder.inner_folders):
                yield await asyncio.to_thread(self._folder.put_before, inner, moment.timestamp())


async def _some_at_once(worker: Callable[[], Coroutine[Any, Any, None]], count: int) -> None:
    """Run as many workers as are allowed and of use; what the first one raises is raised."""
    failures: list[Exception] = []
    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(_SMALL_AT_ONCE, count)):
                group.create_task(worker())
    except* Exception as failed:
        failures.extend(failed.exceptions)
    if failures:
        raise failures[0]


async def open_blob_store(url: str) -> BlobStore:
    """Open the store that BLOB_URL names and see that it takes bytes.

    Raises:
        InvalidArgument: The URL is none that is taken; reason INVALID_FIELD.
        Unavailable: The folder cannot be made, or the store takes nothing; reason BLOB_STORE_UNAVAILABLE.
    """
    store = _opened(url)
    # A missing bucket or a wrong key shows now and not at the first upload.
    await store.put_small({PROBE: b""})
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
