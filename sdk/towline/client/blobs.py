"""Bytes by content: uploads and downloads that go on where they broke off."""

import asyncio
import hashlib
import io
import os
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import AsyncExitStack, aclosing
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

import grpc

from towline.client import digests
from towline.client.calls import Backoff, Service, new_request_id
from towline.client.digests import Measured
from towline.errors import (
    Aborted,
    DeadlineExceeded,
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
STREAM_TIMEOUT_S: Final = 600.0
# As the proto says.
MOST_DIGESTS: Final = 10_000


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
            response = await self._registry.call(self._stub.FindMissingBlobs, request)
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
        """Upload bytes that are already measured; see `upload`."""
        upload_id = new_request_id()
        backoff = Backoff()
        reached, complete = 0, False
        while not complete:
            before = reached
            try:
                header = artifacts_pb2.UploadHeader(
                    upload_id=upload_id,
                    digest=measured.digest,
                    size_bytes=measured.size_bytes,
                    offset=reached,
                )
                response = await self._send_from(source, header, progress)
                reached, complete = response.committed_size, response.complete
            except (Unavailable, DeadlineExceeded, FailedPrecondition) as error:
                if backoff.exhausted or not _can_go_on(error):
                    raise
                await asyncio.sleep(backoff.failed())
                status = await self._status(upload_id, measured.digest)
                reached, complete = status.committed_size, status.complete
            if reached > before:
                backoff.reset()
        if progress:
            progress(measured.size_bytes, measured.size_bytes)

    async def _status(self, upload_id: str, digest: str) -> artifacts_pb2.GetUploadStatusResponse:
        request = artifacts_pb2.GetUploadStatusRequest(upload_id=upload_id, digest=digest)
        return await self._registry.call(self._stub.GetUploadStatus, request)

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
        hexadecimal = digests.checked(digest).removeprefix(digests.PREFIX)
        partial = to.with_name(f".{hexadecimal[:16]}.partial")
        await asyncio.to_thread(to.parent.mkdir, parents=True, exist_ok=True)
        for from_the_start in (False, True):
            if from_the_start:
                partial.unlink(missing_ok=True)
            found = await self._download(digest, partial, progress)
            if found == digest:
                await asyncio.to_thread(_put_in_place, partial, to, digest)
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
        backoff = Backoff()
        size = -1
        while True:
            request = artifacts_pb2.DownloadBlobRequest(digest=digest, offset=file.tell())
            try:
                call = self._stub.DownloadBlob(request, timeout=STREAM_TIMEOUT_S)
                try:
                    async for piece in call:
                        size = piece.size_bytes or size
                        await asyncio.to_thread(file.write, piece.data)
                        computed.update(piece.data)
                        backoff.reset()
                        if progress:
                            progress(file.tell(), size)
                    return
                finally:
                    call.cancel()
            except grpc.aio.AioRpcError as failure:
                error = self._registry.error(failure)
            if backoff.exhausted or not _can_go_on(error):
                raise error
            await asyncio.sleep(backoff.failed())


def _can_go_on(error: TowlineError) -> bool:
    return isinstance(error, Unavailable | DeadlineExceeded) or error.reason == "UPLOAD_OFFSET_MISMATCH"


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


def _put_in_place(partial: Path, to: Path, digest: str) -> None:
    try:
        partial.replace(to)
    except FileNotFoundError:  # another download of the same blob to the same place has just done so
        if digests.measure(to).digest != digest:
            raise
