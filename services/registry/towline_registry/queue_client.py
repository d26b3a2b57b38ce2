"""The way to the queue service: which runs refer to a job version."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Final, Protocol

import grpc

from towline.errors import FailedPrecondition, NotFound
from towline.rpc.channel import open_channel
from towline.rpc.status import translated
from towline.v1 import runs_pb2, runs_pb2_grpc

__all__ = ["NoQueue", "QueueClient", "RunReferences", "run_references"]

_DEADLINE: Final = timedelta(seconds=5)
_UNAVAILABLE: Final = "QUEUE_UNAVAILABLE"
# The first is the answer, but where runs that only built come before it.
_PAGE: Final = 10


class RunReferences(Protocol):
    """Knows which runs refer to job versions."""

    def check_known(self) -> None:
        """Check that it can be asked at all.

        Raises:
            FailedPrecondition: It cannot; reason NO_QUEUE_ADDRESS.
        """
        ...

    async def is_there(self, run: str) -> bool:
        """Say whether there is a run "runs/{run}"; where that cannot be asked, it is taken to be.

        Raises:
            Unavailable: The queue service gave no answer; reason QUEUE_UNAVAILABLE.
        """
        ...

    async def run_of(self, job_version: str) -> str | None:
        """Find a run that refers to "jobs/{job}/versions/{version}"; None: there is none.

        One that only built its image and has ended does not: nobody asks what came out of it.

        Raises:
            FailedPrecondition: It cannot be asked; reason NO_QUEUE_ADDRESS.
            Unavailable: The queue service gave no answer; reason QUEUE_UNAVAILABLE.
        """
        ...


class QueueClient:
    """RunReferences of a queue service.

    Args:
        channel: To the queue service.
        address: Where it listens, for messages.
    """

    def __init__(self, channel: grpc.aio.Channel, address: str) -> None:
        self._runs: runs_pb2_grpc.RunServiceAsyncStub = runs_pb2_grpc.RunServiceStub(channel)
        self._peer = f"the queue service ({address})"

    def check_known(self) -> None:
        """See RunReferences."""

    async def is_there(self, run: str) -> bool:
        """See RunReferences."""
        request = runs_pb2.GetRunRequest(name=run)
        try:
            with translated(self._peer, _UNAVAILABLE):
                await self._runs.GetRun(request, timeout=_DEADLINE.total_seconds())
        except NotFound:
            return False
        return True

    async def run_of(self, job_version: str) -> str | None:
        """See RunReferences."""
        token = ""
        while True:
            request = runs_pb2.ListRunsRequest(
                filter=runs_pb2.RunFilter(job=job_version), page_size=_PAGE, page_token=token
            )
            with translated(self._peer, _UNAVAILABLE):
                page = await self._runs.ListRuns(request, timeout=_DEADLINE.total_seconds())
            for run in page.runs:
                if not (run.build_only and run.HasField("end_time")):
                    return run.name
            token = page.next_page_token
            if not token:
                return None


class NoQueue:
    """RunReferences where nobody said where the queue service is."""

    def check_known(self) -> None:
        """See RunReferences."""
        raise FailedPrecondition(
            "the registry cannot ask which runs refer to a job version, so it deletes none; "
            "set TOWLINE_REGISTRY_QUEUE_ADDRESS to where the queue service listens",
            reason="NO_QUEUE_ADDRESS",
        )

    async def is_there(self, run: str) -> bool:  # noqa: ARG002 - see RunReferences
        """See RunReferences."""
        return True

    async def run_of(self, job_version: str) -> str | None:  # noqa: ARG002 - see RunReferences
        """See RunReferences."""
        self.check_known()
        return None


@asynccontextmanager
async def run_references(address: str) -> AsyncIterator[RunReferences]:
    """Give a client of the queue service at `address`, connected when first used; empty: there is none."""
    if not address:
        yield NoQueue()
        return
    async with open_channel(address) as channel:
        yield QueueClient(channel, address)
