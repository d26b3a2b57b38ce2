"""JobService."""

import asyncio

import grpc
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from towline import names
from towline.requests import pages
from towline.service.postgres import idempotent, remembered, request_key, transaction
from towline.v1.jobs_pb2 import (
    CreateJobVersionRequest,
    CreateJobVersionResponse,
    DeleteJobAliasRequest,
    DeleteJobAliasResponse,
    DeleteJobVersionRequest,
    DeleteJobVersionResponse,
    GetJobVersionRequest,
    GetJobVersionResponse,
    Job,
    JobSpec,
    JobVersion,
    ListJobsRequest,
    ListJobsResponse,
    ListJobVersionsRequest,
    ListJobVersionsResponse,
    SetJobAliasRequest,
    SetJobAliasResponse,
    SetJobRetentionRequest,
    SetJobRetentionResponse,
)
from towline.v1.jobs_pb2_grpc import JobServiceServicer
from towline_registry.core import jobspecs, texts, versions
from towline_registry.core.digests import Digest
from towline_registry.core.retention import Retention
from towline_registry.prebuilds import Prebuilds
from towline_registry.queue_client import RunReferences
from towline_registry.servicers.timestamps import timestamp
from towline_registry.storage import aliases, blobs, jobs, removal, series
from towline_registry.storage.series import JOBS, Key, SeriesRow
from towline_registry.storage.tables import requests

__all__ = ["JobServicer"]

MAX_AUTHOR_CHARACTERS = 256
# What a page token of ListJobs is good for.
_JOBS = b"jobs"


class JobServicer(JobServiceServicer):
    """Serves towline.v1.JobService.

    Args:
        engine: Where jobs are kept.
        runs: Knows which runs refer to them.
        prebuilds: Is told of new versions; None: nobody wants to know.
    """

    def __init__(self, engine: AsyncEngine, runs: RunReferences, prebuilds: Prebuilds | None) -> None:
        self._engine = engine
        self._runs = runs
        self._prebuilds = prebuilds

    async def CreateJobVersion(
        self, request: CreateJobVersionRequest, context: grpc.ServicerContext
    ) -> CreateJobVersionResponse:
        """See jobs.proto."""
        job = names.job(request.job)
        author = texts.bounded(request.author, "author", MAX_AUTHOR_CHARACTERS)
        words = versions.aliases(job, request.aliases, "aliases")
        # A megabyte of parameters takes a while to check; other calls go on meanwhile.
        new = await asyncio.to_thread(_new_version, request, author)

        async def create(connection: AsyncConnection) -> CreateJobVersionResponse:
            await _require_blobs(connection, new.spec)
            row, created = await jobs.add_version(connection, job, new, words)
            return CreateJobVersionResponse(job_version=_job_version(row), created=created)

        response = await idempotent(self._engine, requests, request, CreateJobVersionResponse, create)
        if response.created and self._prebuilds:
            self._prebuilds.made(response.job_version.name)
        return response

    async def GetJobVersion(
        self, request: GetJobVersionRequest, context: grpc.ServicerContext
    ) -> GetJobVersionResponse:
        """See jobs.proto."""
        name = names.job_version(request.name)
        async with transaction(self._engine) as connection:
            row = await jobs.get(connection, name)
        return GetJobVersionResponse(job_version=_job_version(row))

    async def ListJobs(self, request: ListJobsRequest, context: grpc.ServicerContext) -> ListJobsResponse:
        """See jobs.proto."""
        size = pages.page_size(request.page_size)
        after = pages.page_start(_JOBS, request.page_token, str) or ""
        async with transaction(self._engine) as connection:
            rows = await jobs.list_jobs(connection, after=after, limit=size + 1)
        page = [_job(row) for row in rows[:size]]
        return ListJobsResponse(
            jobs=page, next_page_token=pages.next_token(_JOBS, page[-1].name) if len(rows) > size else ""
        )

    async def ListJobVersions(
        self, request: ListJobVersionsRequest, context: grpc.ServicerContext
    ) -> ListJobVersionsResponse:
        """See jobs.proto."""
        job = names.job(request.parent, "parent")
        size = pages.page_size(request.page_size)
        before = pages.page_start(job.encode(), request.page_token, int)
        async with transaction(self._engine) as connection:
            rows, more = await jobs.list_versions(connection, job, before=before, limit=size)
        page = [_job_version(row) for row in rows]
        return ListJobVersionsResponse(
            job_versions=page,
            next_page_token=pages.next_token(job.encode(), rows[-1].key.number) if more else "",
        )

    async def SetJobAlias(
        self, request: SetJobAliasRequest, context: grpc.ServicerContext
    ) -> SetJobAliasResponse:
        """See jobs.proto."""
        name = names.job_version(request.name)
        job = names.job(names.split_version(name)[0], "name")
        [word] = versions.aliases(job, [request.alias], "alias")
        expected = versions.expected(job, request.expected, "expected")

        async def set_alias(connection: AsyncConnection) -> SetJobAliasResponse:
            await series.hold(connection, JOBS, job)
            key = await series.find(connection, JOBS, name)
            await aliases.move(connection, JOBS, key, word, expected)
            row = await jobs.get(connection, names.JobVersionName(key.name))
            return SetJobAliasResponse(job_version=_job_version(row))

        return await idempotent(self._engine, requests, request, SetJobAliasResponse, set_alias)

    async def DeleteJobAlias(
        self, request: DeleteJobAliasRequest, context: grpc.ServicerContext
    ) -> DeleteJobAliasResponse:
        """See jobs.proto."""
        name = names.job_version(request.name)
        job, word = names.split_version(name)[0], versions.alias(name, "name")

        async def delete(connection: AsyncConnection) -> DeleteJobAliasResponse:
            await series.hold(connection, JOBS, job)
            await aliases.drop(connection, JOBS, job, word)
            return DeleteJobAliasResponse()

        return await idempotent(self._engine, requests, request, DeleteJobAliasResponse, delete)

    async def DeleteJobVersion(
        self, request: DeleteJobVersionRequest, context: grpc.ServicerContext
    ) -> DeleteJobVersionResponse:
        """See jobs.proto."""
        name = names.job_version(request.name)
        key = Key(names.split_version(name)[0], versions.number(name, "name"))
        repeated = request_key(request)

        async def delete(connection: AsyncConnection) -> DeleteJobVersionResponse:
            await jobs.delete(connection, key)
            return DeleteJobVersionResponse()

        known = repeated and await remembered(self._engine, requests, repeated, DeleteJobVersionResponse)
        if known is None:  # asked outside of the transaction
            await self._check_no_run(key)
        return await idempotent(self._engine, requests, request, DeleteJobVersionResponse, delete)

    async def SetJobRetention(
        self, request: SetJobRetentionRequest, context: grpc.ServicerContext
    ) -> SetJobRetentionResponse:
        """See jobs.proto."""
        job = names.job(request.name, "name")
        retention = Retention.checked(request.retention if request.HasField("retention") else None)
        if request.HasField("retention"):
            self._runs.check_known()

        async def set_retention(connection: AsyncConnection) -> SetJobRetentionResponse:
            await series.hold(connection, JOBS, job)
            await removal.set_retention(connection, JOBS, job, retention)
            return SetJobRetentionResponse(job=_job(await series.get(connection, JOBS, job)))

        return await idempotent(self._engine, requests, request, SetJobRetentionResponse, set_retention)

    async def _check_no_run(self, key: Key) -> None:
        if run := await self._runs.run_of(key.name):
            raise versions.in_use(
                key.name, f"{run} refers to it", "it stays for as long as that run does", run=run
            )


def _new_version(request: CreateJobVersionRequest, author: str) -> jobs.NewVersion:
    spec = jobspecs.completed(request.spec)
    return jobs.NewVersion(spec=spec, digest=jobspecs.digest_of(spec), author=author)


async def _require_blobs(connection: AsyncConnection, spec: JobSpec) -> None:
    if spec.HasField("code"):
        source = {Digest(spec.code.digest): spec.code.size_bytes}
        await blobs.require(connection, source, "spec.code.size_bytes")
    if spec.git.patch_digest:
        await blobs.require(connection, {Digest(spec.git.patch_digest): None}, "spec.git.patch_digest")
    for wheel in spec.python.wheels:
        file = {Digest(wheel.digest): wheel.size_bytes}
        await blobs.require(connection, file, f"spec.python.wheels[{wheel.filename}].size_bytes")


def _job(row: SeriesRow) -> Job:
    return Job(
        name=row.name,
        create_time=timestamp(row.create_time),
        latest_version=row.latest.name,
        version_count=row.version_count,
        retention=row.retention.policy(),
    )


def _job_version(row: jobs.VersionRow) -> JobVersion:
    return JobVersion(
        name=row.key.name,
        digest=row.digest,
        spec=row.spec,
        create_time=timestamp(row.create_time),
        author=row.author,
        aliases=row.aliases,
    )
