"""Bytes by content: uploads and downloads that go on where they broke off."""

import asyncio
import hashlib
import io
import os
import uuid
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import AsyncExitStack, aclosing
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

import grpc

from towline.client import digests
from towline.client.calls import Service, new_request_id
from towline.client.digests import Measured
from towline.client.patience import Patience, persistently
from towline.client.placing import partial_of, put_in_place
from towline.errors import (
    Aborted,
    FailedPrecondition,
    InvalidArgument,
    TowlineError,
    Unavailable,
)
from towline.rpc.channel import MAX_CHUNK_BYTES
from towline.v1 import artifacts_pb2
from towline.v1.artifacts_pb2_grpc import BlobServiceStub

if TYPE_CHECKING:  # exists for type checkers only
    from towline.v1.artifacts_pb2_grpc import BlobServiceAsyncStub

__all__ = ["Blobs", "Progress"]

# Called with the bytes done and the bytes in all; of `Client`, in a thread of its own.
Progress = Callable[[int, int], None]

# One stream of an upload or download may take this long; then it goes on in another one.
STREAM_TIMEOUT_S: Final = 3600.0
# As the proto says.
MOST_DIGESTS: Final = 10_000
# Ids of uploads follow from what is uploaded.
_UPLOADS: Final = uuid.UUID("d1b5a1f6-5a43-4c0f-9a53-3f0e5a6c7f21")


class Blobs:
    """Bytes named by their sha256."""

    def __init__(self, registry: Service) -> None:
        self._registry = registry

    @cached_property
    def _stub(self) -> "BlobServiceAsyncStub":
        return BlobServiceStub(self._registry.channel)

    async def missing(self, blob_digests: Iterable[str]) -> list[str]:
        """Say which of the given blobs the registry lacks, in the order given."""
        asked = [digests.checked(digest) for digest in blob_digests]
        lacking: list[str] = []
        for start in range(0, len(asked), MOST_DIGESTS):
            request = artifacts_pb2.FindMissingBlobsRequest(digests=asked[start : start + MOST_DIGESTS])
            # Half of what is written of digests says nothing.
            response = await self._registry.call(
                self._stub.FindMissingBlobs, request, compression=grpc.Compression.Gzip
            )
            lacking.extend(response.missing_digests)
        return lacking

    async def upload(self, source: Path | bytes, progress: Progress | None = None) -> str:
        """Make sure that the registry has these bytes, and give their digest.

        A stream that breaks is taken up where the registry says it stands; bytes that are there are not sent.

        Raises:
            OSError: The file cannot be read.
            FailedPrecondition: The file changed meanwhile; reason FILE_CHANGED.
            TowlineError: What the registry answered, or Unavailable.
        """
        measured = await asyncio.to_thread(digests.measure, source)
        if await self.missing([measured.digest]):
            await self.send(source, measured, progress)
        elif progress:
            progress(measured.size_bytes, measured.size_bytes)
        return measured.digest

    async def send(self, source: Path | bytes, measured: Measured, progress: Progress | None = None) -> None:
        """Upload bytes that are already measured; see `upload`.

        The upload of more than a message has an id that follows from the bytes, so that whoever sends them,
        this process or a later one, goes on where the last one stopped.
        """
        upload = _Upload(measured)
        if measured.size_bytes > MAX_CHUNK_BYTES:
            upload.inherit(await self._status(upload.id, measured.digest))
        while not upload.complete:
            try:
                response = await self._send_from(source, upload.header(), progress)
                upload.note(response)
            except TowlineError as error:
                pause_s = upload.pause_s(error)
                if pause_s is None:
                    raise
                await asyncio.sleep(pause_s)
                upload.note(await self._status(upload.id, measured.digest))
        if progress:
            progress(measured.size_bytes, measured.size_bytes)

    async def _status(self, upload_id: str, digest: str) -> artifacts_pb2.GetUploadStatusResponse:
        request = artifacts_pb2.GetUploadStatusRequest(upload_id=upload_id, digest=digest)
        return await persistently(lambda: self._registry.call(self._stub.GetUploadStatus, request))

    async def _send_from(
        self, source: Path | bytes, header: artifacts_pb2.UploadHeader, progress: Progress | None
    ) -> artifacts_pb2.UploadBlobResponse:
        call = self._stub.UploadBlob(timeout=STREAM_TIMEOUT_S)
        try:
            async with aclosing(_requests(source, header)) as requests:
                sent = header.offset
                async for request in requests:
                    try:
                        await call.write(request)
                    except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                        break  # answered before all was sent; the answer says why
                    sent += len(request.data)
                    if progress:
                        progress(sent, header.size_bytes)
            if not call.done():
                await call.done_writing()
            return await call
        except grpc.aio.AioRpcError as failure:
            raise self._registry.error(failure) from None
        finally:
            call.cancel()

    async def download(self, digest: str, to: Path, progress: Progress | None = None) -> None:
        """Write a blob to the file `to`, which is there only once it is whole and its digest was checked.

        What an earlier attempt left next to `to` is gone on with, unless it turns out to be something else.

        Raises:
            Aborted: The bytes do not have the digest; reason DIGEST_MISMATCH.
            OSError: The file cannot be written.
            TowlineError: What the registry answered, or Unavailable.
        """
        partial = partial_of(to, digests.checked(digest))
        await asyncio.to_thread(to.parent.mkdir, parents=True, exist_ok=True)
        for from_the_start in (False, True):
            if from_the_start:
                partial.unlink(missing_ok=True)
            found = await self._download(digest, partial, progress)
            if found == digest:
                await asyncio.to_thread(put_in_place, partial, to, digest)
                return
        partial.unlink(missing_ok=True)
        raise Aborted(
            f"what came for {digest} has the digest {found}; download it again, and if that does not help, "
            "check the registry's object store",
            reason="DIGEST_MISMATCH",
        )

    async def _download(self, digest: str, partial: Path, progress: Progress | None) -> str:
        """Fill up a partial file, and give the digest of what it holds then."""
        async with AsyncExitStack() as stack:
            file = await asyncio.to_thread(_open_for_update, partial)
            stack.callback(file.close)
            computed = await asyncio.to_thread(_computed_so_far, file)
            try:
                await self._receive(digest, file, computed, progress)
            except InvalidArgument:  # the file is longer than the blob
                if not file.tell():
                    raise
        return digests.written(computed)

    async def _receive(
        self, digest: str, file: io.BufferedRandom, computed: "hashlib._Hash", progress: Progress | None
    ) -> None:
        loop = asyncio.get_running_loop()
        patience = Patience()
        size = -1
        while True:
            request = artifacts_pb2.DownloadBlobRequest(digest=digest, offset=file.tell())
            try:
                call = self._stub.DownloadBlob(request, timeout=STREAM_TIMEOUT_S)
                writing: asyncio.Future[None] | None = None
                try:
                    async for piece in call:
                        size = piece.size_bytes or size
                        if writing:  # each piece is written while the next one comes in
                            await writing
                            if progress:
                                progress(file.tell(), size)
                        writing = loop.run_in_executor(None, _take, piece.data, file, computed)
                finally:
                    call.cancel()
                    if writing:
                        await writing
                        patience.moved()
                if progress:
                    progress(file.tell(), size)
                return
            except grpc.aio.AioRpcError as failure:
                error = self._registry.error(failure)
            await patience.wait(error)


class _Upload:
    """One upload of a blob over all its streams: what it is called, and where it stands."""

    def __init__(self, measured: Measured) -> None:
        self._measured = measured
        name = f"{measured.digest}/{measured.size_bytes}"
        large = measured.size_bytes > MAX_CHUNK_BYTES
        self.id = str(uuid.uuid5(_UPLOADS, name)) if large else new_request_id()
        self._shared = large
        self._inherited = False
        self._reached = 0
        self.complete = False
        self._patience = Patience()

    def header(self) -> artifacts_pb2.UploadHeader:
        """Say where the next stream starts."""
        return artifacts_pb2.UploadHeader(
            upload_id=self.id,
            digest=self._measured.digest,
            size_bytes=self._measured.size_bytes,
            offset=self._reached,
        )

    def inherit(self, stands: artifacts_pb2.GetUploadStatusResponse) -> None:
        """Take what others have left of it."""
        self._inherited = stands.committed_size > 0
        self.note(stands)

    def note(self, stands: artifacts_pb2.UploadBlobResponse | artifacts_pb2.GetUploadStatusResponse) -> None:
        """Take what the registry says of it."""
        if stands.committed_size > self._reached:
            self._patience.moved()
        self._reached, self.complete = stands.committed_size, stands.complete

    def pause_s(self, error: TowlineError) -> float | None:
        """Give the seconds after which to go on; None: there is no use in it."""
        if error.reason == "UPLOAD_OFFSET_MISMATCH":
            error = Unavailable(error.message, reason=error.reason)
        pause_s = self._patience.pause_s(error)
        if pause_s is not None:
            return pause_s
        # Somebody else holds the upload and gets nowhere, or has left bytes that are not the blob's.
        if (self._shared and error.reason == "UPLOAD_IN_PROGRESS") or (
            self._inherited and error.reason == "DIGEST_MISMATCH"
        ):
            self._inherited = False
            self.id, self._shared, self._reached = new_request_id(), False, 0
            self._patience.moved()
            return 0.0
        return None


def _take(data: bytes, file: BinaryIO, computed: "hashlib._Hash") -> None:
    file.write(data)
    computed.update(data)


async def _requests(
    source: Path | bytes, header: artifacts_pb2.UploadHeader
) -> AsyncGenerator[artifacts_pb2.UploadBlobRequest, None]:
    """Cut the bytes from the header's offset on into messages, the first one with the header."""
    left = header.size_bytes - header.offset
    file: BinaryIO = (
        io.BytesIO(source) if isinstance(source, bytes) else await asyncio.to_thread(source.open, "rb")
    )
    with file:
        file.seek(header.offset)
        first = True
        while left or first:
            data = await asyncio.to_thread(file.read, min(left, MAX_CHUNK_BYTES))
            if not data and left:
                raise FailedPrecondition(
                    f"{source!r} became shorter while it was uploaded", reason="FILE_CHANGED"
                )
            yield artifacts_pb2.UploadBlobRequest(header=header if first else None, data=data)
            left -= len(data)
            first = False


def _open_for_update(path: Path) -> io.BufferedRandom:
    """Open a file that need not exist yet.

    Not for appending: two downloads of the same blob then write the same bytes to the same places.
    """
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b")


def _computed_so_far(file: io.BufferedRandom) -> "hashlib._Hash":
    """Digest what a file holds; it stands at its end afterwards."""
    return hashlib.file_digest(file, "sha256")
