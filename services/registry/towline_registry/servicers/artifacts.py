"""ArtifactService."""

import asyncio

import grpc
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from towline import names
from towline.requests import pages
from towline.service.postgres import idempotent, transaction
from towline.v1.artifacts_pb2 import (
    Artifact,
    ArtifactUse,
    ArtifactVersion,
    CreateArtifactVersionRequest,
    CreateArtifactVersionResponse,
    DeleteArtifactAliasRequest,
    DeleteArtifactAliasResponse,
    DeleteArtifactVersionRequest,
    DeleteArtifactVersionResponse,
    GetArtifactLineageRequest,
    GetArtifactLineageResponse,
    GetArtifactVersionRequest,
    GetArtifactVersionResponse,
    ListArtifactsRequest,
    ListArtifactsResponse,
    ListArtifactVersionsRequest,
    ListArtifactVersionsResponse,
    RecordArtifactUsesRequest,
    RecordArtifactUsesResponse,
    SetArtifactAliasRequest,
    SetArtifactAliasResponse,
    SetArtifactRetentionRequest,
    SetArtifactRetentionResponse,
)
from towline.v1.artifacts_pb2_grpc import ArtifactServiceServicer
from towline_registry.core import manifests, versions
from towline_registry.core.artifact_uses import Uses
from towline_registry.core.retention import Retention
from towline_registry.servicers.timestamps import timestamp
from towline_registry.stale_uses import StaleUses
from towline_registry.storage import aliases, artifacts, blobs, removal, series, uses
from towline_registry.storage.series import ARTIFACTS, JOBS, Key
from towline_registry.storage.tables import requests

__all__ = ["ArtifactServicer"]

# What a page token of ListArtifacts is good for, with the type asked for.
_ARTIFACTS = "artifacts"


class ArtifactServicer(ArtifactServiceServicer):
    """Serves towline.v1.ArtifactService.

    Args:
        engine: Where artifacts are kept.
        stale_uses: Takes away uses by runs that are not there.
    """

    def __init__(self, engine: AsyncEngine, stale_uses: StaleUses) -> None:
        self._engine = engine
        self._stale_uses = stale_uses

    async def CreateArtifactVersion(
        self, request: CreateArtifactVersionRequest, context: grpc.ServicerContext
    ) -> CreateArtifactVersionResponse:
        """See artifacts.proto."""
        artifact = names.artifact(request.artifact)
        words = versions.aliases(artifact, request.aliases, "aliases")
        new = artifacts.NewVersion(
            type=manifests.checked_type(request.type),
            producer=_producer(request),
            metadata_json=manifests.checked_metadata(request.metadata_json),
            # A manifest of many files takes a while to check; other calls go on meanwhile.
            manifest=await asyncio.to_thread(manifests.checked, request.files),
        )

        async def create(connection: AsyncConnection) -> CreateArtifactVersionResponse:
            await blobs.require(connection, new.manifest.blobs, "files.size_bytes")
            row, created = await artifacts.add_version(connection, artifact, new, words)
            return CreateArtifactVersionResponse(artifact_version=_summary(row), created=created)

        return await idempotent(self._engine, requests, request, CreateArtifactVersionResponse, create)

    async def GetArtifactVersion(
        self, request: GetArtifactVersionRequest, context: grpc.ServicerContext
    ) -> GetArtifactVersionResponse:
        """See artifacts.proto."""
        name = names.artifact_version(request.name)
        async with transaction(self._engine) as connection:
            row = await artifacts.get(connection, name)
            manifest = b"" if request.without_files else await artifacts.get_manifest(connection, row.key)
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
            next_page_token=pages.next_token(artifact.encode(), rows[size - 1].key.number) if more else "",
        )

    async def ListArtifacts(
        self, request: ListArtifactsRequest, context: grpc.ServicerContext
    ) -> ListArtifactsResponse:
        """See artifacts.proto."""
        size = pages.page_size(request.page_size)
        kind = manifests.checked_type(request.type) if request.type else ""
        question = f"{_ARTIFACTS} {kind}".encode()
        after = pages.page_start(question, request.page_token, str) or ""
        async with transaction(self._engine) as connection:
            rows = await artifacts.list_artifacts(connection, type=kind, after=after, limit=size + 1)
        page, more = [_artifact(row) for row in rows[:size]], len(rows) > size
        return ListArtifactsResponse(
            artifacts=page, next_page_token=pages.next_token(question, page[-1].name) if more else ""
        )

    async def SetArtifactAlias(
        self, request: SetArtifactAliasRequest, context: grpc.ServicerContext
    ) -> SetArtifactAliasResponse:
        """See artifacts.proto."""
        name = names.artifact_version(request.name)
        artifact = names.artifact(names.split_version(name)[0], "name")
        [word] = versions.aliases(artifact, [request.alias], "alias")
        expected = versions.expected(artifact, request.expected, "expected")

        async def set_alias(connection: AsyncConnection) -> SetArtifactAliasResponse:
            await series.hold(connection, ARTIFACTS, artifact)
            key = await series.find(connection, ARTIFACTS, name)
            await aliases.move(connection, ARTIFACTS, key, word, expected)
            row = await artifacts.get(connection, names.ArtifactVersionName(key.name))
            return SetArtifactAliasResponse(artifact_version=_summary(row))

        return await idempotent(self._engine, requests, request, SetArtifactAliasResponse, set_alias)

    async def DeleteArtifactAlias(
        self, request: DeleteArtifactAliasRequest, context: grpc.ServicerContext
    ) -> DeleteArtifactAliasResponse:
        """See artifacts.proto."""
        name = names.artifact_version(request.name)
        artifact, word = names.split_version(name)[0], versions.alias(name, "name")

        async def delete(connection: AsyncConnection) -> DeleteArtifactAliasResponse:
            await series.hold(connection, ARTIFACTS, artifact)
            await aliases.drop(connection, ARTIFACTS, artifact, word)
            return DeleteArtifactAliasResponse()

        return await idempotent(self._engine, requests, request, DeleteArtifactAliasResponse, delete)

    async def DeleteArtifactVersion(
        self, request: DeleteArtifactVersionRequest, context: grpc.ServicerContext
    ) -> DeleteArtifactVersionResponse:
        """See artifacts.proto."""
        name = names.artifact_version(request.name)
        key = Key(names.split_version(name)[0], versions.number(name, "name"))

        async def delete(connection: AsyncConnection) -> DeleteArtifactVersionResponse:
            await artifacts.delete(connection, key)
            return DeleteArtifactVersionResponse()

        await self._stale_uses.drop(key)
        return await idempotent(self._engine, requests, request, DeleteArtifactVersionResponse, delete)

    async def SetArtifactRetention(
        self, request: SetArtifactRetentionRequest, context: grpc.ServicerContext
    ) -> SetArtifactRetentionResponse:
        """See artifacts.proto."""
        artifact = names.artifact(request.name, "name")
        retention = Retention.checked(request.retention if request.HasField("retention") else None)

        async def set_retention(connection: AsyncConnection) -> SetArtifactRetentionResponse:
            await series.hold(connection, ARTIFACTS, artifact)
            await removal.set_retention(connection, ARTIFACTS, artifact, retention)
            row = await artifacts.get_artifact(connection, artifact)
            return SetArtifactRetentionResponse(artifact=_artifact(row))

        return await idempotent(self._engine, requests, request, SetArtifactRetentionResponse, set_retention)

    async def RecordArtifactUses(
        self, request: RecordArtifactUsesRequest, context: grpc.ServicerContext
    ) -> RecordArtifactUsesResponse:
        """See artifacts.proto."""
        asked = Uses.checked(request)
        keys = {Key(*each) for each in asked.versions}
        async with transaction(self._engine) as connection:
            if not asked.runs:
                await series.find(connection, JOBS, asked.job_version)
            await uses.add(connection, asked.runs, asked.job_version, keys)
        return RecordArtifactUsesResponse()

    async def GetArtifactLineage(
        self, request: GetArtifactLineageRequest, context: grpc.ServicerContext
    ) -> GetArtifactLineageResponse:
        """See artifacts.proto."""
        name = names.artifact_version(request.name)
        size = pages.page_size(request.page_size)
        async with transaction(self._engine) as connection:
            row = await artifacts.get(connection, name)
            question = row.key.name.encode()
            before = pages.page_start(question, request.page_token, int)
            read = await uses.newest_first(connection, row.key, before=before, limit=size + 1)
            page, more = read[:size], len(read) > size
            made_from = await artifacts.made_from(connection, row.producer)
            came_of = await artifacts.came_of(connection, {use.reader for use in page})
        return GetArtifactLineageResponse(
            artifact_version=_summary(row),
            producer_inputs=map(_summary, made_from),
            uses=map(_use, page),
            descendants=map(_summary, came_of),
            next_page_token=pages.next_token(question, page[-1].id) if more else "",
        )


def _producer(request: CreateArtifactVersionRequest) -> uses.Reader:
    run, job_version = request.producer_run, request.producer_job_version
    if job_version:
        versions.number(names.job_version(job_version, "producer_job_version"), "producer_job_version")
    return uses.Reader(names.run(run, "producer_run") if run else "", job_version)


def _summary(row: artifacts.VersionRow) -> ArtifactVersion:
    return ArtifactVersion(
        name=row.key.name,
        type=row.type,
        digest=row.digest,
        size_bytes=row.size_bytes,
        file_count=row.file_count,
        create_time=timestamp(row.create_time),
        producer_run=row.producer.run,
        producer_job_version=row.producer.job_version,
        metadata_json=row.metadata_json,
        aliases=row.aliases,
    )


def _artifact(row: artifacts.ArtifactRow) -> Artifact:
    return Artifact(
        name=row.series.name,
        create_time=timestamp(row.series.create_time),
        latest_version=row.series.latest.name,
        version_count=row.series.version_count,
        type=row.type,
        retention=row.series.retention.policy(),
    )


def _use(use: uses.Use) -> ArtifactUse:
    return ArtifactUse(
        run=use.reader.run, job_version=use.reader.job_version, create_time=timestamp(use.create_time)
    )
