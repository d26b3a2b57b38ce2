"""Takes submissions: asks the registry, decides, stores, answers."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple, TypeVar

from google.protobuf.message import Message
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from towline import names
from towline.errors import InvalidArgument, NotFound, ResourceExhausted
from towline.names import JobVersionName, RunName
from towline.service.postgres import idempotent, remembered
from towline.v1 import jobs_pb2, runs_pb2
from towline_queue.core.run_ids import RANDOM_BITS, run_names
from towline_queue.core.submission import MAX_RUNS, Made, NewRun, Submission, check, make_run, repeat_run
from towline_queue.registry_client import RegistryClient
from towline_queue.run_views import placed
from towline_queue.storage import queues, runs
from towline_queue.storage.run_records import RunRecord
from towline_queue.storage.tables import requests

__all__ = ["Submitter"]

_RETRY_AFTER: Final = timedelta(seconds=1)

_Versions = Mapping[JobVersionName, jobs_pb2.JobVersion]
_SubmitRunResponse = runs_pb2.SubmitRunResponse
_SubmitRunsResponse = runs_pb2.SubmitRunsResponse
_Response = TypeVar("_Response", bound=Message)


class Submitter:
    """Makes runs of submissions.

    Args:
        engine: The database.
        registry: Where job versions come from.
        most_in_flight: Requests carried out at once; more are refused.
    """

    def __init__(self, engine: AsyncEngine, registry: RegistryClient, *, most_in_flight: int) -> None:
        self._engine = engine
        self._registry = registry
        self._most_in_flight = most_in_flight
        self._in_flight = 0

    async def submit(self, request: runs_pb2.SubmitRunRequest) -> _SubmitRunResponse:
        """Queue one run; see RunService.SubmitRun for the errors."""
        wanted = [_Wanted(check(request.run, "run"), "")]

        async def answer(connection: AsyncConnection, records: Sequence[RunRecord]) -> _SubmitRunResponse:
            return _SubmitRunResponse(run=await placed(connection, records[0]))

        return await self._once(request, _SubmitRunResponse, wanted, answer)

    async def submit_all(self, request: runs_pb2.SubmitRunsRequest) -> _SubmitRunsResponse:
        """Queue all runs or none; an error names the first run that is wrong, as "runs[i]"."""
        if not 1 <= len(request.runs) <= MAX_RUNS:
            raise InvalidArgument.field("runs", f"{len(request.runs)} runs; give 1 to {MAX_RUNS}")
        wanted = [
            _Wanted(check(run, f"runs[{index}]"), f"runs[{index}].") for index, run in enumerate(request.runs)
        ]

        async def answer(_: AsyncConnection, records: Sequence[RunRecord]) -> _SubmitRunsResponse:
            return _SubmitRunsResponse(runs=[record.name for record in records])

        return await self._once(request, _SubmitRunsResponse, wanted, answer)

    async def retry(self, request: runs_pb2.RetryRunRequest) -> runs_pb2.RetryRunResponse:
        """Queue a run that has ended once more; see RunService.RetryRun for the errors."""
        name = names.run(request.name)

        async def apply(connection: AsyncConnection) -> runs_pb2.RetryRunResponse:
            ended = await runs.ended(connection, name)
            await queues.share_specs(connection, [names.queue(ended.spec.queue)])
            (new_name,), now = _new_names(1)
            new = repeat_run(ended, Made(new_name, now, ended.queue_spec))
            (record,) = await runs.insert(connection, [new])
            return runs_pb2.RetryRunResponse(run=await placed(connection, record))

        with self._admitted():
            return await idempotent(self._engine, requests, request, runs_pb2.RetryRunResponse, apply)

    @contextmanager
    def _admitted(self) -> Iterator[None]:
        if self._in_flight >= self._most_in_flight:
            raise ResourceExhausted(
                f"{self._in_flight} submissions are being carried out; try again, or submit many in one call",
                reason="OVERLOADED",
                # Spread out, so that those refused together do not come back together.
                retry_after=_RETRY_AFTER * (1 + secrets.randbelow(1000) / 1000),
            )
        self._in_flight += 1
        try:
            yield
        finally:
            self._in_flight -= 1

    async def _once(
        self,
        request: Message,
        response_type: type[_Response],
        wanted: Sequence["_Wanted"],
        answer: Callable[[AsyncConnection, Sequence[RunRecord]], Awaitable[_Response]],
    ) -> _Response:
        """Store the runs of a request, once however often it comes, and give its answer."""

        async def apply(connection: AsyncConnection) -> _Response:
            return await answer(connection, await _store(connection, wanted, versions))

        with self._admitted():
            if not all(self._registry.keeps(submission.job) for submission, _ in wanted):
                # The registry may be away, or an alias may have moved, since the first time.
                first = await remembered(self._engine, requests, request, response_type)
                if first is not None:
                    return first
            versions = await self._versions(wanted)
            return await idempotent(self._engine, requests, request, response_type, apply)

    async def _versions(self, wanted: Sequence["_Wanted"]) -> _Versions:
        versions: dict[JobVersionName, jobs_pb2.JobVersion] = {}
        for submission, prefix in wanted:
            if submission.job not in versions:
                with _located(prefix, "job"):
                    versions[submission.job] = await self._registry.job_version(submission.job)
        return versions


class _Wanted(NamedTuple):
    """A submission and what stands before the paths of its fields in an error: "" or "runs[i]."."""

    submission: Submission
    prefix: str


async def _store(
    connection: AsyncConnection, wanted: Sequence[_Wanted], versions: _Versions
) -> list[RunRecord]:
    """Decide what runs the submissions become, and store them."""
    specs: dict[names.QueueName, bytes] = {}
    for submission, prefix in wanted:
        if submission.queue not in specs:
            with _located(prefix, "queue"):
                specs |= await queues.share_specs(connection, [submission.queue])
    new_names, now = _new_names(len(wanted))

    def make() -> list[NewRun]:
        return [
            make_run(submission, versions[submission.job], Made(name, now, specs[submission.queue]), prefix)
            for (submission, prefix), name in zip(wanted, new_names, strict=True)
        ]

    # A thousand runs, or a megabyte of parameters, take a while to check; other calls go on meanwhile.
    return await runs.insert(connection, await asyncio.to_thread(make))


def _new_names(count: int) -> tuple[list[RunName], datetime]:
    chances: set[int] = set()
    while len(chances) < count:
        chances.add(secrets.randbits(RANDOM_BITS))
    now = datetime.now(UTC)
    return run_names(int(now.timestamp() * 1000), list(chances)), now


@contextmanager
def _located(prefix: str, field: str) -> Iterator[None]:
    """Say in a NotFound of the block where in the request the name stands."""
    try:
        yield
    except NotFound as error:
        path = f"{prefix or 'run.'}{field}"
        raise NotFound(
            f"{path}: {error.message}", reason=error.reason, metadata=error.metadata | {"field": path}
        ) from error
