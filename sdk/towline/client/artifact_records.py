"""What the registry knows of artifacts: names, versions, aliases, lineage."""

from collections.abc import AsyncGenerator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from towline.client import shorthand
from towline.client.calls import PAGE_SIZE, Service, listed, new_request_id
from towline.v1 import artifacts_pb2, jobs_pb2
from towline.v1.artifacts_pb2_grpc import ArtifactServiceStub

if TYPE_CHECKING:  # exists for type checkers only
    from towline.v1.artifacts_pb2_grpc import ArtifactServiceAsyncStub

__all__ = ["ArtifactRecords"]


class ArtifactRecords:
    """Named, versioned sets of files, without their bytes."""

    def __init__(self, registry: Service) -> None:
        self._registry = registry

    @cached_property
    def _stub(self) -> "ArtifactServiceAsyncStub":
        return ArtifactServiceStub(self._registry.channel)

    async def get(self, name: str) -> artifacts_pb2.ArtifactVersion:
        """Get one version with its files; the latest where the name says none."""
        request = artifacts_pb2.GetArtifactVersionRequest(name=shorthand.artifact_version(name))
        return (await self._registry.call(self._stub.GetArtifactVersion, request)).artifact_version

    async def list(self, type: str = "") -> AsyncGenerator[artifacts_pb2.Artifact, None]:
        """Walk through all artifacts, by name; with a type only those whose latest version has it."""

        async def fetch(token: str) -> tuple[Sequence[artifacts_pb2.Artifact], str]:
            request = artifacts_pb2.ListArtifactsRequest(page_size=PAGE_SIZE, page_token=token, type=type)
            page = await self._registry.call(self._stub.ListArtifacts, request)
            return page.artifacts, page.next_page_token

        async for item in listed(fetch):
            yield item

    async def versions(self, name: str) -> AsyncGenerator[artifacts_pb2.ArtifactVersion, None]:
        """Walk through the versions of an artifact, newest first, without their files."""
        parent = shorthand.artifact(name)

        async def fetch(token: str) -> tuple[Sequence[artifacts_pb2.ArtifactVersion], str]:
            request = artifacts_pb2.ListArtifactVersionsRequest(
                parent=parent, page_size=PAGE_SIZE, page_token=token
            )
            page = await self._registry.call(self._stub.ListArtifactVersions, request)
            return page.artifact_versions, page.next_page_token

        async for item in listed(fetch):
            yield item

    async def lineage(self, name: str, most_uses: int = 50) -> artifacts_pb2.GetArtifactLineageResponse:
        """Get where a version came from, who has read it, newest first, and what those runs made.

        Args:
            name: The version, such as "digits:v0".
            most_uses: Readers to name; at most 1000. There are more if `next_page_token` is set.
        """
        request = artifacts_pb2.GetArtifactLineageRequest(
            name=shorthand.artifact_version(name), page_size=most_uses
        )
        return await self._registry.call(self._stub.GetArtifactLineage, request)

    async def record_uses(self, job_version: str, versions: Sequence[str]) -> None:
        """Note that the recording of a job version has read artifact versions; twice counts as once."""
        request = artifacts_pb2.RecordArtifactUsesRequest(
            job_version=shorthand.job_version(job_version),
            artifact_versions=[shorthand.artifact_version(version) for version in versions],
        )
        await self._registry.call(self._stub.RecordArtifactUses, request)

    async def set_alias(self, name: str, alias: str, expected: str = "") -> artifacts_pb2.ArtifactVersion:
        """Make an alias point at a version, moving it if it exists.

        Args:
            name: The version, such as "digits:v3".
            alias: A name such as "best".
            expected: Version that it points at now, such as "v2", or "none"; empty: whatever it is.

        Raises:
            FailedPrecondition: It points elsewhere; reason ALIAS_MOVED.
        """
        request = artifacts_pb2.SetArtifactAliasRequest(
            request_id=new_request_id(),
            name=shorthand.artifact_version(name),
            alias=alias,
            expected=shorthand.expected("artifacts", name, expected),
        )
        return (await self._registry.call(self._stub.SetArtifactAlias, request)).artifact_version

    async def delete_alias(self, name: str) -> None:
        """Take an alias away, "digits:best"; the version stays."""
        request = artifacts_pb2.DeleteArtifactAliasRequest(
            request_id=new_request_id(), name=shorthand.artifact_version(name)
        )
        await self._registry.call(self._stub.DeleteArtifactAlias, request)

    async def delete_version(self, name: str) -> None:
        """Make a version, "digits:v3", unknown from now on; its number is not given again.

        Raises:
            FailedPrecondition: A run, a job or an alias other than "latest" refers to it; reason IN_USE.
        """
        request = artifacts_pb2.DeleteArtifactVersionRequest(
            request_id=new_request_id(), name=shorthand.artifact_version(name)
        )
        await self._registry.call(self._stub.DeleteArtifactVersion, request)

    async def set_retention(
        self, name: str, retention: jobs_pb2.RetentionPolicy | None
    ) -> artifacts_pb2.Artifact:
        """Say which versions of an artifact are deleted by themselves; None: none."""
        request = artifacts_pb2.SetArtifactRetentionRequest(
            request_id=new_request_id(), name=shorthand.artifact(name), retention=retention
        )
        return (await self._registry.call(self._stub.SetArtifactRetention, request)).artifact
