"""Takes submissions: asks the registry, decides, stores, answers."""

import asyncio
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from towline import names
from towline.errors import InvalidArgument, NotFound, ResourceExhausted
from towline.names import JobVersionName, RunName
from towline.service.postgres import idempotent, remembered
from towline.v1 import jobs_pb2, runs_pb2
from towline_queue.core.run_ids import RANDOM_BITS, run_names
from towline_queue.core.submission import MAX_RUNS, Made, NewRun, Submission, check, make_run, repeat_run
from towline_queue.registry_client import RegistryClient
from towline_queue.servicers.run_views import placed
from towline_queue.storage import queues, runs
from towline_queue.storage.run_records import RunRecord
from towline_queue.storage.tables import requests

__all__ = ["Submitter"]

_RETRY_AFTER: Final = timedelta(seconds=1)
# Runs made between two chances for other calls: each takes a fraction of a millisecond.
_AT_A_STRETCH: Final = 25

_Versions = Mapping[JobVersionName, jobs_pb2.JobVersion]


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

    async def submit(self, request: runs_pb2.SubmitRunRequest) -> runs_pb2.SubmitRunResponse:
        """Queue one run; see RunService.SubmitRun for the errors."""
        submission = check(request.run, "run")

        async def apply(connection: AsyncConnection) -> runs_pb2.SubmitRunResponse:
            (record,) = await _store(connection, [submission], versions, [""])
            return runs_pb2.SubmitRunResponse(run=await placed(connection, record))

        with self._admitted():
            if not self._registry.keeps(submission.job):
                # The registry may be away, or an alias may have moved, since the first time.
                answer = await remembered(self._engine, requests, request, runs_pb2.SubmitRunResponse)
                if answer is not None:
                    return answer
            versions = await self._versions([submission], [""])
            return await idempotent(self._engine, requests, request, runs_pb2.SubmitRunResponse, apply)

    async def submit_all(self, request: runs_pb2.SubmitRunsRequest) -> runs_pb2.SubmitRunsResponse:
        """Queue all runs or none; an error names the first run that is wrong, as "runs[i]"."""
        if not 1 <= len(request.runs) <= MAX_RUNS:
            raise InvalidArgument.field("runs", f"{len(request.runs)} runs; give 1 to {MAX_RUNS}")
        submissions = [check(run, f"runs[{index}]") for index, run in enumerate(request.runs)]
        prefixes = [f"runs[{index}]." for index in range(len(submissions))]

        async def apply(connection: AsyncConnection) -> runs_pb2.SubmitRunsResponse:
            records = await _store(connection, submissions, versions, prefixes)
            return runs_pb2.SubmitRunsResponse(runs=[record.name for record in records])

        with self._admitted():
            if not all(self._registry.keeps(submission.job) for submission in submissions):
                answer = await remembered(self._engine, requests, request, runs_pb2.SubmitRunsResponse)
                if answer is not None:
                    return answer
            versions = await self._versions(submissions, prefixes)
            return await idempotent(self._engine, requests, request, runs_pb2.SubmitRunsResponse, apply)

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

    async def _versions(self, submissions: Sequence[Submission], prefixes: Sequence[str]) -> _Versions:
        versions: dict[JobVersionName, jobs_pb2.JobVersion] = {}
        for submission, prefix in zip(submissions, prefixes, strict=True):
            if submission.job not in versions:
                with _located(f"{prefix}job"):
                    versions[submission.job] = await self._registry.job_version(submission.job)
        return versions


async def _store(
    connection: AsyncConnection,
    submissions: Sequence[Submission],
    versions: _Versions,
    prefixes: Sequence[str],
) -> list[RunRecord]:
    """Decide what runs the submissions become, and store them."""
    new_names, now = _new_names(len(submissions))
    specs: dict[names.QueueName, bytes] = {}
    for queue in dict.fromkeys(submission.queue for submission in submissions):
        first = next(prefix for prefix, s in zip(prefixes, submissions, strict=True) if s.queue == queue)
        with _located(f"{first}queue"):
            specs |= await queues.share_specs(connection, [queue])
    new: list[NewRun] = []
    for index, submission in enumerate(submissions):
        made = Made(new_names[index], now, specs[submission.queue])
        new.append(make_run(submission, versions[submission.job], made, prefixes[index]))
        if index % _AT_A_STRETCH == _AT_A_STRETCH - 1:
            await asyncio.sleep(0)
    return await runs.insert(connection, new)


def _new_names(count: int) -> tuple[list[RunName], datetime]:
    chances: set[int] = set()
    while len(chances) < count:
        chances.add(secrets.randbits(RANDOM_BITS))
    now = datetime.now(UTC)
    return run_names(int(now.timestamp() * 1000), list(chances)), now


@contextmanager
def _located(field: str) -> Iterator[None]:
    """Say in a NotFound of the block where in the request the name stands."""
    try:
        yield
    except NotFound as error:
        raise NotFound(
            f"{field}: {error.message}", reason=error.reason, metadata=error.metadata | {"field": field}
        ) from error
