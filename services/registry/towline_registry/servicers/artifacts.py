"""ArtifactService."""

import asyncio

import grpc
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from towline import names
from towline.requests import pages
from towline.service.postgres import idempotent, transaction
from towline.v1.artifacts_pb2 import (
    ArtifactVersion,
    CreateArtifactVersionRequest,
    CreateArtifactVersionResponse,
    GetArtifactVersionRequest,
    GetArtifactVersionResponse,
    ListArtifactVersionsRequest,
    ListArtifactVersionsResponse,
)
from towline.v1.artifacts_pb2_grpc import ArtifactServiceServicer
from towline_registry.core import manifests, versions
from towline_registry.servicers.timestamps import timestamp
from towline_registry.storage import artifacts, blobs
from towline_registry.storage.tables import requests

__all__ = ["ArtifactServicer"]


class ArtifactServicer(ArtifactServiceServicer):
    """Serves towline.v1.ArtifactService.

    Args:
        engine: Where artifacts are kept.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def CreateArtifactVersion(
        self, request: CreateArtifactVersionRequest, context: grpc.ServicerContext
    ) -> CreateArtifactVersionResponse:
        """See artifacts.proto."""
        artifact = names.artifact(request.artifact)
        new = artifacts.NewVersion(
            type=manifests.checked_type(request.type),
            producer_run=names.run(request.producer_run, "producer_run") if request.producer_run else "",
            # A manifest of many files takes a while to check; other calls go on meanwhile.
            manifest=await asyncio.to_thread(manifests.checked, request.files),
        )

        async def create(connection: AsyncConnection) -> CreateArtifactVersionResponse:
            await blobs.require(connection, new.manifest.blobs, "files.size_bytes")
            row, created = await artifacts.add_version(connection, artifact, new)
            return CreateArtifactVersionResponse(artifact_version=_summary(row), created=created)

        return await idempotent(self._engine, requests, request, CreateArtifactVersionResponse, create)

    async def GetArtifactVersion(
        self, request: GetArtifactVersionRequest, context: grpc.ServicerContext
    ) -> GetArtifactVersionResponse:
        """See artifacts.proto."""
        name = names.artifact_version(request.name)
        async with transaction(self._engine) as connection:
            row = await artifacts.get(connection, name)
            manifest = await artifacts.get_manifest(connection, row)
        version = _summary(row)
        version.MergeFromString(manifest)
        return GetArtifactVersionResponse(artifact_version=version)

    async def ListArtifactVersions(
        self, request: ListArtifactVersionsRequest, context: grpc.ServicerContext
    ) -> ListArtifactVersionsResponse:
        """See artifacts.proto."""
        artifact = names.artifact(request.parent, "parent")
        size = pages.page_size(request.page_size)
        before = pages.page_start(artifact.encode(), request.page_token, int)
        async with transaction(self._engine) as connection:
            rows = await artifacts.list_versions(connection, artifact, before=before, limit=size + 1)
        page, more = [_summary(row) for row in rows[:size]], len(rows) > size
        return ListArtifactVersionsResponse(
            artifact_versions=page,
            next_page_token=pages.next_token(artifact.encode(), rows[size - 1].number) if more else "",
        )


def _summary(row: artifacts.VersionRow) -> ArtifactVersion:
    return ArtifactVersion(
        name=f"{row.artifact}/versions/{versions.label(row.number)}",
        type=row.type,
        digest=row.digest,
        size_bytes=row.size_bytes,
        file_count=row.file_count,
        create_time=timestamp(row.create_time),
        producer_run=row.producer_run,
    )
