"""The registry as the agent uses it: blobs both ways, and the outputs artifact."""

import asyncio
import hashlib
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc

from towline.errors import FailedPrecondition, InvalidArgument
from towline.rpc.channel import MAX_CHUNK_BYTES
from towline.rpc.status import translated
from towline.v1 import artifacts_pb2, artifacts_pb2_grpc

__all__ = ["MAX_SMALL_BLOBS", "MAX_SMALL_BLOB_BYTES", "FileSlice", "Registry"]

# As the proto says of DownloadBlobs.
MAX_SMALL_BLOBS: Final = 1000
MAX_SMALL_BLOB_BYTES: Final = 1024 * 1024

_ANSWER_S: Final = 30.0
# Streams of bytes: long enough for 1 TiB on a slow line, short enough to end.
_TRANSFER_S: Final = 24 * 3600.0
_DIGESTS_PER_CALL: Final = 10_000


@dataclass(frozen=True)
class FileSlice:
    """Bytes that lie in a file."""

    path: Path
    start: int
    size: int

    def read(self, offset: int) -> Iterator[bytes]:
        """Give the bytes from an offset, in pieces that fit a message."""
        with self.path.open("rb") as file:
            file.seek(self.start + offset)
            left = self.size - offset
            while left > 0 and (data := file.read(min(left, MAX_CHUNK_BYTES))):
                left -= len(data)
                yield data


class Registry:
    """Client of the registry. Errors are Towline's; Unavailable means that trying again may help.

    Args:
        channel: To the registry.
        peer: The service and its address, for messages.
    """

    def __init__(self, channel: grpc.aio.Channel, peer: str) -> None:
        self._blobs = artifacts_pb2_grpc.BlobServiceStub(channel)
        self._artifacts = artifacts_pb2_grpc.ArtifactServiceStub(channel)
        self._peer = peer

    async def download(self, digest: str, size: int | None, target: Path) -> None:
        """Bring a blob into a file, going on where an earlier try stopped, and check it.

        Args:
            digest: Of the blob.
            size: How many bytes it has been recorded with; None: as many as it has.
            target: The file.

        Raises:
            InvalidArgument: Its size (BLOB_SIZE_MISMATCH) or digest (DIGEST_MISMATCH) is another.
        """
        file = await asyncio.to_thread(target.open, "ab")
        try:
            have = file.tell()
            request = artifacts_pb2.DownloadBlobRequest(digest=digest, offset=have)
            with translated(self._peer):
                async for response in self._blobs.DownloadBlob(request, timeout=_TRANSFER_S):
                    have += len(response.data)
                    if size is not None and have > size:
                        break
                    await asyncio.to_thread(file.write, response.data)
        finally:
            await asyncio.to_thread(file.close)
        await asyncio.to_thread(_check, target, digest, size)

    async def read(self, digest: str, offset: int) -> AsyncGenerator[bytes, None]:
        """Give the bytes of a blob from an offset on; the reader checks them."""
        request = artifacts_pb2.DownloadBlobRequest(digest=digest, offset=offset)
        call = self._blobs.DownloadBlob(request, timeout=_TRANSFER_S)
        try:
            with translated(self._peer):
                async for response in call:
                    yield response.data
        finally:
            call.cancel()

    async def read_small(self, digests: Sequence[str]) -> AsyncGenerator[tuple[str, bytes], None]:
        """Give whole small blobs with their digests, in the order asked for; the reader checks them."""
        request = artifacts_pb2.DownloadBlobsRequest(digests=digests)
        call = self._blobs.DownloadBlobs(request, timeout=_TRANSFER_S)
        try:
            with translated(self._peer):
                async for response in call:
                    for blob in response.blobs:
                        yield blob.digest, blob.data
        finally:
            call.cancel()

    async def artifact_version(self, name: str, *, files: bool) -> artifacts_pb2.ArtifactVersion:
        """Return an artifact version, with or without its files."""
        request = artifacts_pb2.GetArtifactVersionRequest(name=name, without_files=not files)
        with translated(self._peer):
            response = await self._artifacts.GetArtifactVersion(request, timeout=_ANSWER_S)
        return response.artifact_version

    async def missing(self, digests: Sequence[str]) -> set[str]:
        """Return those blobs that the registry lacks."""
        found: set[str] = set()
        for start in range(0, len(digests), _DIGESTS_PER_CALL):
            request = artifacts_pb2.FindMissingBlobsRequest(
                digests=digests[start : start + _DIGESTS_PER_CALL]
            )
            with translated(self._peer):
                response = await self._blobs.FindMissingBlobs(request, timeout=_ANSWER_S)
            found.update(response.missing_digests)
        return found

    async def upload(self, digest: str, content: FileSlice) -> None:
        """Store a blob, going on where an earlier try stopped."""
        header = artifacts_pb2.UploadHeader(digest=digest, size_bytes=content.size)
        with translated(self._peer):
            if content.size <= MAX_CHUNK_BYTES:
                # One message: there is nothing to go on with, so nobody needs to ask where it stands.
                header.upload_id = str(uuid.uuid4())
            else:
                # One id for one content: whoever tries again goes on with the same upload.
                header.upload_id = str(uuid.uuid5(uuid.NAMESPACE_URL, f"towline:{content.path}:{digest}"))
                request = artifacts_pb2.GetUploadStatusRequest(upload_id=header.upload_id, digest=digest)
                status = await self._blobs.GetUploadStatus(request, timeout=_ANSWER_S)
                if status.complete:
                    return
                header.offset = status.committed_size
            response = await self._blobs.UploadBlob(_messages(header, content), timeout=_TRANSFER_S)
        if not response.complete:
            raise FailedPrecondition(
                f"the registry keeps {response.committed_size} of {content.size} bytes of {digest}",
                reason="UPLOAD_INCOMPLETE",
            )

    async def create_version(self, request: artifacts_pb2.CreateArtifactVersionRequest) -> str:
        """Make a version of an artifact and return "artifacts/{artifact}/versions/{version}"."""
        with translated(self._peer):
            response = await self._artifacts.CreateArtifactVersion(request, timeout=_ANSWER_S)
        return response.artifact_version.name


async def _messages(
    header: artifacts_pb2.UploadHeader, content: FileSlice
) -> AsyncIterator[artifacts_pb2.UploadBlobRequest]:
    message = artifacts_pb2.UploadBlobRequest(header=header)
    for data in content.read(header.offset):
        message.data = data
        yield message
        message = artifacts_pb2.UploadBlobRequest()
    if message.HasField("header"):  # nothing left to send, or an empty blob
        yield message


def _check(path: Path, digest: str, size: int | None) -> None:
    """Refuse a download that is not what was asked for, and remove it so that nobody goes on with it."""
    if size is not None and path.stat().st_size != size:
        path.unlink()
        raise InvalidArgument(
            f"blob {digest} has not the recorded size of {size} bytes; record the job again",
            reason="BLOB_SIZE_MISMATCH",
        )
    with path.open("rb") as file:
        found = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
    if found != digest:
        path.unlink()
        raise InvalidArgument(
            f"blob {digest} came as {found}; the registry's storage or the way to it is damaged",
            reason="DIGEST_MISMATCH",
        )
