"""New job versions are built before anybody submits them, where a queue asks for that."""

import logging
from collections.abc import AsyncIterator
from typing import Final

from sqlalchemy.ext.asyncio import AsyncEngine

from towline import names
from towline.errors import InvalidArgument, NotFound
from towline.names import JobName, JobVersionName, QueueName
from towline.service.postgres import transaction
from towline.v1 import queues_pb2, runs_pb2
from towline_queue.core.prebuilds import request_id, wants
from towline_queue.registry_client import RegistryClient
from towline_queue.storage import queues
from towline_queue.submitting import Submitter

__all__ = ["Prebuilds"]

_log = logging.getLogger(__name__)
_PAGE: Final = 1000


class Prebuilds:
    """Submits runs that only build.

    Args:
        engine: Where queues are.
        registry: Tells who made a version.
        submitter: Takes the submissions.
    """

    def __init__(self, engine: AsyncEngine, registry: RegistryClient, submitter: Submitter) -> None:
        self._engine = engine
        self._registry = registry
        self._submitter = submitter

    async def submit(self, name: JobVersionName) -> list[str]:
        """Have a version built for each queue that asks for it, once however often this is called.

        Returns:
            "runs/{run}" of each, by the queues' names. A queue whose settings refuse it is left out.

        Raises:
            NotFound: There is no such version; JOB_NOT_FOUND or JOB_VERSION_NOT_FOUND.
            Unavailable: The registry gave no answer; reason REGISTRY_UNAVAILABLE.
            ResourceExhausted: Too many submissions are being carried out; reason OVERLOADED.
        """
        job = JobName(names.split_version(name)[0])
        asking = [queue async for queue, spec in self._queues() if wants(spec.prebuild, job)]
        if not asking:
            return []
        version = await self._registry.job_version(name)
        submitted = []
        for queue in asking:
            wanted = runs_pb2.RunSubmission(
                job=version.name,
                queue=queue,
                priority=runs_pb2.PRIORITY_LOW,
                author=version.author,
                build_only=True,
            )
            again = request_id(queue, JobVersionName(version.name))
            request = runs_pb2.SubmitRunRequest(request_id=again, run=wanted)
            try:
                submitted.append((await self._submitter.submit(request)).run.name)
            except (InvalidArgument, NotFound) as error:  # nobody waits for an answer who could mend it
                _log.warning("%s is not built for %s: %s", name, queue, error.message)
        return submitted

    async def _queues(self) -> AsyncIterator[tuple[QueueName, queues_pb2.QueueSpec]]:
        after: str | None = None
        while True:
            async with transaction(self._engine) as connection:
                page = await queues.specs(connection, after=after, size=_PAGE)
            for name, spec in page:
                yield name, queues_pb2.QueueSpec.FromString(spec)
            if len(page) < _PAGE:
                return
            after = page[-1][0]
