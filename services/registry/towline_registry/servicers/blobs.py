"""BlobService."""

from collections.abc import AsyncIterator

import grpc

from towline.errors import InvalidArgument
from towline.rpc.channel import MAX_CHUNK_BYTES
from towline.v1.artifacts_pb2 import (
    DownloadBlobRequest,
    DownloadBlobResponse,
    DownloadBlobsRequest,
    DownloadBlobsResponse,
    FindMissingBlobsRequest,
    FindMissingBlobsResponse,
    GetUploadStatusRequest,
    GetUploadStatusResponse,
    UploadBlobRequest,
    UploadBlobResponse,
    UploadBlobsRequest,
    UploadBlobsResponse,
    WholeBlob,
)
from towline.v1.artifacts_pb2_grpc import BlobServiceServicer
from towline_registry.blobs.transfers import Transfers
from towline_registry.core import digests, small_blobs
from towline_registry.core.uploads import Upload, UploadKey

__all__ = ["BlobServicer"]

MAX_DIGESTS = 10_000


class BlobServicer(BlobServiceServicer):
    """Serves towline.v1.BlobService.

    Args:
        transfers: Moves and finds blobs.
    """

    def __init__(self, transfers: Transfers) -> None:
        self._transfers = transfers

    async def FindMissingBlobs(
        self, request: FindMissingBlobsRequest, context: grpc.ServicerContext
    ) -> FindMissingBlobsResponse:
        """See artifacts.proto."""
        if len(request.digests) > MAX_DIGESTS:
            raise InvalidArgument.field("digests", f"at most {MAX_DIGESTS} are taken; ask in several calls")
        asked = [digests.checked(digest, "digests") for digest in request.digests]
        found = await self._transfers.present(asked)
        return FindMissingBlobsResponse(missing_digests=[digest for digest in asked if digest not in found])

    async def GetUploadStatus(
        self, request: GetUploadStatusRequest, context: grpc.ServicerContext
    ) -> GetUploadStatusResponse:
        """See artifacts.proto."""
        progress = await self._transfers.status(UploadKey.checked(request.upload_id, request.digest))
        return GetUploadStatusResponse(committed_size=progress.committed_size, complete=progress.complete)

    async def UploadBlob(
        self, request_iterator: AsyncIterator[UploadBlobRequest], context: grpc.ServicerContext
    ) -> UploadBlobResponse:
        """See artifacts.proto."""
        first = await anext(request_iterator, None)
        if first is None or not first.HasField("header"):
            raise InvalidArgument.field("header", "the first message of an upload carries it")
        upload = Upload.checked(first.header)
        progress = await self._transfers.receive(upload, _pieces(first, request_iterator))
        return UploadBlobResponse(committed_size=progress.committed_size, complete=progress.complete)

    async def DownloadBlob(
        self, request: DownloadBlobRequest, context: grpc.ServicerContext
    ) -> AsyncIterator[DownloadBlobResponse]:
        """See artifacts.proto."""
        size, pieces = await self._transfers.send(digests.checked(request.digest, "digest"), request.offset)
        first = await anext(pieces, b"")
        yield DownloadBlobResponse(data=first, size_bytes=size)
        async for piece in pieces:
            yield DownloadBlobResponse(data=piece)

    async def UploadBlobs(
        self, request_iterator: AsyncIterator[UploadBlobsRequest], context: grpc.ServicerContext
    ) -> AsyncIterator[UploadBlobsResponse]:
        """See artifacts.proto."""
        stored = 0
        async for request in request_iterator:
            await self._transfers.receive_small(small_blobs.checked_contents(request.blobs))
            stored += len(request.blobs)
            yield UploadBlobsResponse(stored_count=stored)

    async def DownloadBlobs(
        self, request: DownloadBlobsRequest, context: grpc.ServicerContext
    ) -> AsyncIterator[DownloadBlobsResponse]:
        """See artifacts.proto."""
        async for group in self._transfers.send_small(small_blobs.checked_digests(request.digests)):
            yield DownloadBlobsResponse(blobs=[WholeBlob(digest=digest, data=data) for digest, data in group])


async def _pieces(first: UploadBlobRequest, others: AsyncIterator[UploadBlobRequest]) -> AsyncIterator[bytes]:
    yield _data(first)
    async for request in others:
        if request.HasField("header"):
            raise InvalidArgument.field("header", "only the first message of an upload carries it")
        yield _data(request)


def _data(request: UploadBlobRequest) -> bytes:
    if len(request.data) > MAX_CHUNK_BYTES:
        raise InvalidArgument.field(
            "data", f"a message has at most {MAX_CHUNK_BYTES} bytes; send more of them"
        )
    return request.data
