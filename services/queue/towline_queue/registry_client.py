"""The way to the registry: job versions and artifact versions by name, and who reads which of these."""

import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Final, NamedTuple

import grpc

from towline import errors
from towline.names import ArtifactVersionName, JobVersionName
from towline.rpc.channel import open_channel
from towline.rpc.status import translated
from towline.v1 import artifacts_pb2, artifacts_pb2_grpc, jobs_pb2, jobs_pb2_grpc
from towline_queue.recently_used import RecentlyUsed

__all__ = ["RegistryClient", "registry_client"]

_DEADLINE: Final = timedelta(seconds=5)
_UNAVAILABLE: Final = "REGISTRY_UNAVAILABLE"
_CACHE_BYTES: Final = 64 * 1024 * 1024
_MOST_ARTIFACTS: Final = 16_384
# The registry keeps what a deleted job version needs for days, so that what is remembered here can be run.
_KEPT_FOR: Final = timedelta(hours=1)


class _Kept(NamedTuple):
    """A job version, and the time by the client's clock until which it is taken to be there."""

    version: jobs_pb2.JobVersion
    until: float


class RegistryClient:
    """Reads versions; those named by version never change and are kept for an hour, aliases are always asked.

    Args:
        channel: To the registry.
        address: Where it listens, for messages.
        cache_bytes: Bound of the job versions that are kept, by size; the longest unused goes first.
        clock: Seconds by a clock that does not jump.
    """

    def __init__(
        self,
        channel: grpc.aio.Channel,
        address: str,
        *,
        cache_bytes: int = _CACHE_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._jobs: jobs_pb2_grpc.JobServiceAsyncStub = jobs_pb2_grpc.JobServiceStub(channel)
        self._artifacts: artifacts_pb2_grpc.ArtifactServiceAsyncStub = artifacts_pb2_grpc.ArtifactServiceStub(
            channel
        )
        self._peer = f"the registry ({address})"
        self._there: RecentlyUsed[str, bool] = RecentlyUsed(_MOST_ARTIFACTS)
        self._kept: RecentlyUsed[str, _Kept] = RecentlyUsed(cache_bytes)
        self._clock = clock

    def keeps(self, name: JobVersionName) -> bool:
        """Return whether `job_version` would answer without asking the registry."""
        return self._remembered(name) is not None

    async def job_version(self, name: JobVersionName) -> jobs_pb2.JobVersion:
        """Return the version that "jobs/{job}/versions/{version or alias}" names now; do not change it.

        Raises:
            NotFound: No such job (JOB_NOT_FOUND) or version (JOB_VERSION_NOT_FOUND).
            Unavailable: The registry gave no answer; reason REGISTRY_UNAVAILABLE.
        """
        if (kept := self._remembered(name)) is not None:
            return kept
        with translated(self._peer, _UNAVAILABLE):
            response = await self._jobs.GetJobVersion(
                jobs_pb2.GetJobVersionRequest(name=name), timeout=_DEADLINE.total_seconds()
            )
        version = response.job_version
        if self._remembered(JobVersionName(version.name)) is None:
            until = self._clock() + _KEPT_FOR.total_seconds()
            self._kept.keep(version.name, _Kept(version, until), version.ByteSize())
        return version

    def _remembered(self, name: JobVersionName) -> jobs_pb2.JobVersion | None:
        kept = self._kept.get(name)
        return kept.version if kept and self._clock() < kept.until else None

    async def artifact_version(self, name: ArtifactVersionName) -> ArtifactVersionName:
        """Return the version, never an alias, that "artifacts/{artifact}/versions/{version or alias}" is now.

        Raises:
            NotFound: No such artifact (ARTIFACT_NOT_FOUND) or version (ARTIFACT_VERSION_NOT_FOUND).
            Unavailable: The registry gave no answer; reason REGISTRY_UNAVAILABLE.
        """
        if self._there.get(name):
            return name
        request = artifacts_pb2.GetArtifactVersionRequest(name=name, without_files=True)
        with translated(self._peer, _UNAVAILABLE):
            response = await self._artifacts.GetArtifactVersion(request, timeout=_DEADLINE.total_seconds())
        found = ArtifactVersionName(response.artifact_version.name)
        self._there.keep(found, True)
        return found

    async def record_uses(self, runs: Sequence[str], job_version: str, versions: Sequence[str]) -> None:
        """Note that runs, at most 1000, read artifact versions, at most 64: none goes while a run has it.

        Raises:
            NotFound: A version was deleted meanwhile; none is taken for being there any more.
            Unavailable: The registry gave no answer; reason REGISTRY_UNAVAILABLE.
        """
        request = artifacts_pb2.RecordArtifactUsesRequest(
            runs=runs, job_version=job_version, artifact_versions=versions
        )
        try:
            with translated(self._peer, _UNAVAILABLE):
                await self._artifacts.RecordArtifactUses(request, timeout=_DEADLINE.total_seconds())
        except errors.NotFound:
            for name in versions:
                self._there.drop(name)
            raise


@asynccontextmanager
async def registry_client(address: str) -> AsyncIterator[RegistryClient]:
    """Give a client of the registry at `address`; it connects when first used."""
    async with open_channel(address) as channel:
        yield RegistryClient(channel, address)
