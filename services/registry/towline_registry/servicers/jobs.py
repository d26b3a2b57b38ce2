"""JobService."""

import asyncio

import grpc
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from towline import names
from towline.requests import pages
from towline.service.postgres import idempotent, transaction
from towline.v1.jobs_pb2 import (
    CreateJobVersionRequest,
    CreateJobVersionResponse,
    GetJobVersionRequest,
    GetJobVersionResponse,
    Job,
    JobVersion,
    ListJobsRequest,
    ListJobsResponse,
    ListJobVersionsRequest,
    ListJobVersionsResponse,
    SetJobAliasRequest,
    SetJobAliasResponse,
)
from towline.v1.jobs_pb2_grpc import JobServiceServicer
from towline_registry.core import digests, jobspecs, texts, versions
from towline_registry.servicers.timestamps import timestamp
from towline_registry.storage import blobs, jobs
from towline_registry.storage.tables import requests

__all__ = ["JobServicer"]

MAX_AUTHOR_CHARACTERS = 256
# What a page token of ListJobs is good for.
_JOBS = b"jobs"


class JobServicer(JobServiceServicer):
    """Serves towline.v1.JobService.

    Args:
        engine: Where jobs are kept.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def CreateJobVersion(
        self, request: CreateJobVersionRequest, context: grpc.ServicerContext
    ) -> CreateJobVersionResponse:
        """See jobs.proto."""
        job = names.job(request.job)
        author = texts.bounded(request.author, "author", MAX_AUTHOR_CHARACTERS)
        aliases = versions.aliases(job, request.aliases, "aliases")
        # A megabyte of parameters takes a while to check; other calls go on meanwhile.
        new = await asyncio.to_thread(_new_version, request, author)

        async def create(connection: AsyncConnection) -> CreateJobVersionResponse:
            if new.spec.HasField("code"):
                source = {digests.Digest(new.spec.code.digest): new.spec.code.size_bytes}
                await blobs.require(connection, source, "spec.code.size_bytes")
            number, created = await jobs.add_version(connection, job, new)
            await jobs.set_aliases(connection, job, aliases, number)
            row = await jobs.get(connection, _version_name(job, number))
            return CreateJobVersionResponse(job_version=_job_version(row), created=created)

        return await idempotent(self._engine, requests, request, CreateJobVersionResponse, create)

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
            next_page_token=pages.next_token(job.encode(), rows[-1].number) if more else "",
        )

    async def SetJobAlias(
        self, request: SetJobAliasRequest, context: grpc.ServicerContext
    ) -> SetJobAliasResponse:
        """See jobs.proto."""
        name = names.job_version(request.name)
        job = names.job(names.split_version(name)[0], "name")
        aliases = versions.aliases(job, [request.alias], "alias")

        async def set_alias(connection: AsyncConnection) -> SetJobAliasResponse:
            number = (await jobs.get(connection, name)).number
            await jobs.set_aliases(connection, job, aliases, number)
            row = await jobs.get(connection, _version_name(job, number))
            return SetJobAliasResponse(job_version=_job_version(row))

        return await idempotent(self._engine, requests, request, SetJobAliasResponse, set_alias)


def _new_version(request: CreateJobVersionRequest, author: str) -> jobs.NewVersion:
    spec = jobspecs.completed(request.spec)
    return jobs.NewVersion(spec=spec, digest=jobspecs.digest_of(spec), author=author)


def _version_name(job: str, number: int) -> names.JobVersionName:
    return names.JobVersionName(f"{job}/versions/{versions.label(number)}")


def _job(row: jobs.JobRow) -> Job:
    return Job(
        name=row.name,
        create_time=timestamp(row.create_time),
        latest_version=_version_name(row.name, row.version_count - 1),
        version_count=row.version_count,
    )


def _job_version(row: jobs.VersionRow) -> JobVersion:
    return JobVersion(
        name=_version_name(row.job, row.number),
        digest=row.digest,
        spec=row.spec,
        create_time=timestamp(row.create_time),
        author=row.author,
        aliases=row.aliases,
    )
