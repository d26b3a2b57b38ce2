"""Many small blobs in few messages, in both directions."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING, Final

import grpc

from towline.client.calls import Service
from towline.client.digests import measure
from towline.client.patience import Patience
from towline.client.reading import opened
from towline.client.trees import Entry, changed
from towline.errors import Aborted
from towline.v1 import artifacts_pb2
from towline.v1.artifacts_pb2 import WholeBlob
from towline.v1.artifacts_pb2_grpc import BlobServiceStub

if TYPE_CHECKING:
    from towline.v1.artifacts_pb2_grpc import BlobServiceAsyncStub

__all__ = ["MOST_BLOBS", "MOST_MESSAGE_BYTES", "SMALL_BYTES", "SmallBlobs"]

# As the proto says.
SMALL_BYTES: Final = 1024 * 1024
MOST_BLOBS: Final = 1000
MOST_MESSAGE_BYTES: Final = 2 * 1024 * 1024
# One message, or the answers to one request, may take this long.
_TIMEOUT_S: Final = 120.0


class SmallBlobs:
    """Moves blobs of at most SMALL_BYTES, each whole."""

    def __init__(self, registry: Service) -> None:
        self._registry = registry

    @cached_property
    def _stub(self) -> "BlobServiceAsyncStub":
        return BlobServiceStub(self._registry.channel)

    async def send(self, files: Sequence[tuple[Entry, str]]) -> None:
        """Store files with the digests they should have; at most one message full.

        Raises:
            FailedPrecondition: One has other content by now (FILE_CHANGED); it is named.
            TowlineError: What the registry answered, or Unavailable once nothing moved for a minute.
        """
        request = await asyncio.to_thread(_request, files)
        patience = Patience()
        while True:
            call = self._stub.UploadBlobs(timeout=_TIMEOUT_S)
            try:
                with suppress(asyncio.InvalidStateError):  # it has ended already; reading says why
                    await call.write(request)
                    await call.done_writing()
                async for _ in call:
                    pass  # an end without an error says that all are safe
                return
            except grpc.aio.AioRpcError as failure:
                error = self._registry.error(failure)
            finally:
                call.cancel()
            await patience.wait(error)

    async def receive(
        self, digests: Sequence[str], take: Callable[[Sequence[WholeBlob]], Awaitable[None]]
    ) -> None:
        """Get blobs, in the order given; `take` is given some at a time, each checked.

        Raises:
            Aborted: The bytes of one do not have its digest; reason DIGEST_MISMATCH.
            TowlineError: What the registry answered, or Unavailable once nothing moved for a minute.
        """
        left = list(digests)
        patience = Patience()
        while left:
            call = self._stub.DownloadBlobs(
                artifacts_pb2.DownloadBlobsRequest(digests=left[:MOST_BLOBS]), timeout=_TIMEOUT_S
            )
            try:
                async for response in call:
                    await asyncio.to_thread(_check, left, response.blobs)
                    await take(response.blobs)
                    del left[: len(response.blobs)]
                    patience.moved()
                continue
            except grpc.aio.AioRpcError as failure:
                error = self._registry.error(failure)
            finally:
                call.cancel()
            await patience.wait(error)


def _request(files: Sequence[tuple[Entry, str]]) -> artifacts_pb2.UploadBlobsRequest:
    return artifacts_pb2.UploadBlobsRequest(blobs=[_blob(entry, digest) for entry, digest in files])


def _blob(entry: Entry, digest: str) -> WholeBlob:
    with os.fdopen(opened(entry), "rb", buffering=0) as file:
        data = file.read()
    if measure(data).digest != digest:
        raise changed(entry.path, "changed")
    return WholeBlob(digest=digest, data=data)


def _check(asked: Sequence[str], blobs: Sequence[WholeBlob]) -> None:
    for digest, blob in zip(asked, blobs, strict=False):
        if (found := measure(blob.data).digest) != digest:
            raise Aborted(
                f"what came for {digest} has the digest {found}; download it again, and if that does not "
                "help, check the registry's object store",
                reason="DIGEST_MISMATCH",
            )
