"""Jobs and their versions."""

from collections.abc import AsyncGenerator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from towline.client import shorthand
from towline.client.calls import PAGE_SIZE, Service, listed, new_request_id
from towline.v1 import jobs_pb2
from towline.v1.jobs_pb2_grpc import JobServiceStub

if TYPE_CHECKING:  # exists for type checkers only
    from towline.v1.jobs_pb2_grpc import JobServiceAsyncStub

__all__ = ["Jobs"]


class Jobs:
    """What can be run."""

    def __init__(self, registry: Service) -> None:
        self._registry = registry

    @cached_property
    def _stub(self) -> "JobServiceAsyncStub":
        return JobServiceStub(self._registry.channel)

    async def create_version(
        self, job: str, spec: jobs_pb2.JobSpec, *, author: str = "", aliases: Sequence[str] = ()
    ) -> jobs_pb2.CreateJobVersionResponse:
        """Add a version to a job, which is made where it does not exist; blobs must be uploaded before.

        Returns:
            The version; `created` is false where one with this content was there.
        """
        request = jobs_pb2.CreateJobVersionRequest(
            request_id=new_request_id(), job=shorthand.job(job), spec=spec, author=author, aliases=aliases
        )
        return await self._registry.call(self._stub.CreateJobVersion, request)

    async def get(self, name: str) -> jobs_pb2.JobVersion:
        """Get one version, by version or alias; the latest where the name says none."""
        request = jobs_pb2.GetJobVersionRequest(name=shorthand.job_version(name))
        return (await self._registry.call(self._stub.GetJobVersion, request)).job_version

    async def list(self) -> AsyncGenerator[jobs_pb2.Job, None]:
        """Walk through all jobs, by name."""

        async def fetch(token: str) -> tuple[Sequence[jobs_pb2.Job], str]:
            request = jobs_pb2.ListJobsRequest(page_size=PAGE_SIZE, page_token=token)
            page = await self._registry.call(self._stub.ListJobs, request)
            return page.jobs, page.next_page_token

        async for item in listed(fetch):
            yield item

    async def versions(self, job: str) -> AsyncGenerator[jobs_pb2.JobVersion, None]:
        """Walk through the versions of a job, newest first."""
        parent = shorthand.job(job)

        async def fetch(token: str) -> tuple[Sequence[jobs_pb2.JobVersion], str]:
            request = jobs_pb2.ListJobVersionsRequest(parent=parent, page_size=PAGE_SIZE, page_token=token)
            page = await self._registry.call(self._stub.ListJobVersions, request)
            return page.job_versions, page.next_page_token

        async for item in listed(fetch):
            yield item

    async def set_alias(self, name: str, alias: str, expected: str = "") -> jobs_pb2.JobVersion:
        """Make an alias point at a version, moving it if it exists.

        Args:
            name: The version, such as "digits-train:v3".
            alias: A name such as "best".
            expected: Version that it points at now, such as "v2", or "none"; empty: whatever it is.

        Raises:
            FailedPrecondition: It points elsewhere; reason ALIAS_MOVED.
        """
        request = jobs_pb2.SetJobAliasRequest(
            request_id=new_request_id(),
            name=shorthand.job_version(name),
            alias=alias,
            expected=shorthand.expected("jobs", name, expected),
        )
        return (await self._registry.call(self._stub.SetJobAlias, request)).job_version

    async def delete_alias(self, name: str) -> None:
        """Take an alias away, "digits-train:best"; the version stays."""
        request = jobs_pb2.DeleteJobAliasRequest(
            request_id=new_request_id(), name=shorthand.job_version(name)
        )
        await self._registry.call(self._stub.DeleteJobAlias, request)

    async def delete_version(self, name: str) -> None:
        """Make a version, "digits-train:v3", unknown from now on; its number is not given again.

        Raises:
            FailedPrecondition: A run or an alias other than "latest" refers to it; reason IN_USE.
        """
        request = jobs_pb2.DeleteJobVersionRequest(
            request_id=new_request_id(), name=shorthand.job_version(name)
        )
        await self._registry.call(self._stub.DeleteJobVersion, request)

    async def set_retention(self, name: str, retention: jobs_pb2.RetentionPolicy | None) -> jobs_pb2.Job:
        """Say which versions of a job are deleted by themselves; None: none."""
        request = jobs_pb2.SetJobRetentionRequest(
            request_id=new_request_id(), name=shorthand.job(name), retention=retention
        )
        return (await self._registry.call(self._stub.SetJobRetention, request)).job
