"""The way to the registry: job versions by name."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Final

import grpc

from towline import errors
from towline.names import JobVersionName
from towline.rpc.channel import open_channel
from towline.rpc.status import to_error
from towline.v1 import jobs_pb2, jobs_pb2_grpc
from towline_queue.recently_used import RecentlyUsed

__all__ = ["RegistryClient", "registry_client"]

_DEADLINE: Final = timedelta(seconds=5)
_CACHE_BYTES: Final = 64 * 1024 * 1024


class RegistryClient:
    """Reads job versions; those named by version are immutable and kept, aliases are asked for each time.

    Args:
        stub: The registry's JobService.
        address: Where it listens, for messages.
        cache_bytes: Bound of what is kept, by serialized size; the longest unused goes first.
    """

    def __init__(
        self, stub: "jobs_pb2_grpc.JobServiceAsyncStub", address: str, *, cache_bytes: int = _CACHE_BYTES
    ) -> None:
        self._stub = stub
        self._peer = f"the registry ({address})"
        self._kept: RecentlyUsed[str, jobs_pb2.JobVersion] = RecentlyUsed(cache_bytes)

    def keeps(self, name: JobVersionName) -> bool:
        """Return whether `job_version` would answer without asking the registry."""
        return name in self._kept

    async def job_version(self, name: JobVersionName) -> jobs_pb2.JobVersion:
        """Return the version that "jobs/{job}/versions/{version or alias}" names now; do not change it.

        Raises:
            NotFound: No such job (JOB_NOT_FOUND) or version (JOB_VERSION_NOT_FOUND).
            Unavailable: The registry gave no answer; reason REGISTRY_UNAVAILABLE.
        """
        if (kept := self._kept.get(name)) is not None:
            return kept
        try:
            response = await self._stub.GetJobVersion(
                jobs_pb2.GetJobVersionRequest(name=name), timeout=_DEADLINE.total_seconds()
            )
        except grpc.aio.AioRpcError as call:
            error = to_error(call, peer=self._peer)
            if isinstance(error, errors.Unavailable | errors.DeadlineExceeded):
                raise errors.Unavailable(error.message, reason="REGISTRY_UNAVAILABLE") from call
            raise error from call
        version = response.job_version
        if version.name not in self._kept:
            self._kept.keep(version.name, version, version.ByteSize())
        return version


@asynccontextmanager
async def registry_client(address: str) -> AsyncIterator[RegistryClient]:
    """Give a client of the registry at `address`; it connects when first used."""
    async with open_channel(address) as channel:
        yield RegistryClient(jobs_pb2_grpc.JobServiceStub(channel), address)
