"""Runs."""

from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from contextlib import aclosing
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

from towline.client import shorthand
from towline.client.artifacts import Artifacts
from towline.client.calls import PAGE_SIZE, Service, listed, new_request_id, reconnecting
from towline.client.exchanges import exchange
from towline.errors import FailedPrecondition, Internal, NotFound
from towline.v1 import artifacts_pb2, runs_pb2
from towline.v1.runs_pb2_grpc import RunServiceStub

if TYPE_CHECKING:  # exists for type checkers only
    from towline.v1.runs_pb2_grpc import RunServiceAsyncStub

__all__ = ["ENDED_STATES", "Runs", "outputs_of"]

# Inside the class `list` is a method.
Names: TypeAlias = list[str]

ENDED_STATES: Final = frozenset(
    {runs_pb2.RUN_STATE_SUCCEEDED, runs_pb2.RUN_STATE_FAILED, runs_pb2.RUN_STATE_CANCELLED}
)
# As the proto says, and well below the largest message.
MOST_RUNS: Final = 1000
MOST_BYTES: Final = 8 * 1024 * 1024


class Runs:
    """Submissions and what became of them."""

    def __init__(self, queue: Service, artifacts: Artifacts) -> None:
        self._queue = queue
        self._artifacts = artifacts

    @cached_property
    def _stub(self) -> "RunServiceAsyncStub":
        return RunServiceStub(self._queue.channel)

    async def submit(self, submission: runs_pb2.RunSubmission) -> runs_pb2.Run:
        """Queue one run; its `job`, `queue` and `inputs` may be short names."""
        request = runs_pb2.SubmitRunRequest(request_id=new_request_id(), run=_whole(submission))
        return (await self._queue.call(self._stub.SubmitRun, request)).run

    async def submit_many(self, submissions: Iterable[runs_pb2.RunSubmission]) -> Names:
        """Queue many runs, in this order, and give their names.

        Up to 1000 (8 MiB) are queued all or none; more go in several such batches over one stream, and an
        error then leaves those of the batches before it queued.
        """
        batches = _batches(_whole(submission) for submission in submissions)
        first, second = next(batches, None), next(batches, None)
        if first is None:
            return []
        if second is None:
            request = runs_pb2.SubmitRunsRequest(request_id=new_request_id(), runs=first)
            return list((await self._queue.call(self._stub.SubmitRuns, request)).runs)
        queued: Names = []
        await exchange(
            self._queue,
            self._stub.StreamSubmitRuns,
            (
                runs_pb2.StreamSubmitRunsRequest(request_id=new_request_id(), runs=runs)
                for runs in chain([first, second], batches)
            ),
            lambda response: queued.extend(response.runs),
        )
        return queued

    async def get(self, name: str) -> runs_pb2.Run:
        """Get one run."""
        request = runs_pb2.GetRunRequest(name=shorthand.run(name))
        return (await self._queue.call(self._stub.GetRun, request)).run

    async def list(self, filter: runs_pb2.RunFilter | None = None) -> AsyncGenerator[runs_pb2.Run, None]:
        """Walk through the runs that the filter selects, newest first; its names may be short."""
        selected = _whole_filter(filter)

        async def fetch(token: str) -> tuple[Sequence[runs_pb2.Run], str]:
            request = runs_pb2.ListRunsRequest(filter=selected, page_size=PAGE_SIZE, page_token=token)
            page = await self._queue.call(self._stub.ListRuns, request)
            return page.runs, page.next_page_token

        async for item in listed(fetch):
            yield item

    async def watch(self, name: str) -> AsyncGenerator[runs_pb2.Run, None]:
        """Give the run as it is now, then again at each change, until it has ended.

        A broken connection is made anew; what was the same before and after is not given twice.
        """
        request = runs_pb2.WatchRunRequest(name=shorthand.run(name))
        last: runs_pb2.Run | None = None
        while last is None or last.state not in ENDED_STATES:
            changes = reconnecting(lambda: self._queue.stream(self._stub.WatchRun, request))
            async with aclosing(changes):
                async for change in changes:
                    if change.run != last:
                        last = change.run
                        yield last

    async def wait(self, name: str) -> runs_pb2.Run:
        """Wait until a run has ended."""
        async with aclosing(self.watch(name)) as changes:
            async for run in changes:
                if run.state in ENDED_STATES:
                    return run
        raise Internal(f"the watch of {name} ended before the run did", reason="WATCH_ENDED")

    async def cancel(self, name: str) -> runs_pb2.Run:
        """Ask for a run to be stopped; one that has ended is given as it is."""
        request = runs_pb2.CancelRunRequest(request_id=new_request_id(), name=shorthand.run(name))
        return (await self._queue.call(self._stub.CancelRun, request)).run

    async def preempt(self, name: str) -> runs_pb2.Run:
        """Have a run's current attempt stopped, so that it can save its work, and the run queued again.

        Raises:
            FailedPrecondition: No agent holds it; reason RUN_NOT_ACTIVE.
        """
        request = runs_pb2.PreemptRunRequest(request_id=new_request_id(), name=shorthand.run(name))
        return (await self._queue.call(self._stub.PreemptRun, request)).run

    async def retry(self, name: str) -> runs_pb2.Run:
        """Queue a run that has ended once more, as a new run."""
        request = runs_pb2.RetryRunRequest(request_id=new_request_id(), name=shorthand.run(name))
        return (await self._queue.call(self._stub.RetryRun, request)).run

    async def outputs(
        self, name: str, to: Path, *, replace: bool = True, epoch: int = 0
    ) -> artifacts_pb2.ArtifactVersion:
        """Write a run's outputs below the folder `to`; `replace` as in Artifacts.download.

        Args:
            name: The run.
            to: The folder.
            replace: See Artifacts.download.
            epoch: The attempt whose outputs are wanted, which need not be the last; 0: the run's.

        Raises:
            FailedPrecondition: It has not ended; reason RUN_NOT_ENDED.
            NotFound: It has no outputs (reason NO_OUTPUTS), or no such attempt (reason NO_ATTEMPT).
            TowlineError: See Artifacts.download.
        """
        return await self._artifacts.download(outputs_of(await self.get(name), epoch), to, replace=replace)


def outputs_of(run: runs_pb2.Run, epoch: int = 0) -> str:
    """Give the artifact version with the outputs of a run, or of one attempt.

    Raises:
        TowlineError: There is none, see Runs.outputs.
    """
    if not epoch:
        what, outputs, ended = run.name, run.outputs, run.state in ENDED_STATES
    else:
        attempt = next((attempt for attempt in run.attempts if attempt.epoch == epoch), None)
        if attempt is None:
            known = ", ".join(str(attempt.epoch) for attempt in run.attempts) or "none yet"
            raise NotFound(
                f"{run.name} has no attempt with epoch {epoch}; there are: {known}", reason="NO_ATTEMPT"
            )
        what, outputs, ended = f"epoch {epoch} of {run.name}", attempt.outputs, bool(attempt.outcome)
    if outputs:
        return outputs
    if not ended:
        raise FailedPrecondition(f"{what} has not ended; its outputs come then", reason="RUN_NOT_ENDED")
    raise NotFound(
        f"{what} has no outputs; a program leaves them in the folder `towline.init().outputs`",
        reason="NO_OUTPUTS",
    )


def _whole(submission: runs_pb2.RunSubmission) -> runs_pb2.RunSubmission:
    copy = runs_pb2.RunSubmission()
    copy.CopyFrom(submission)
    copy.job = shorthand.job_version(submission.job)
    copy.queue = shorthand.queue(submission.queue)
    for name, artifact in submission.inputs.items():
        copy.inputs[name] = shorthand.artifact_version(artifact)
    return copy


def _whole_filter(given: runs_pb2.RunFilter | None) -> runs_pb2.RunFilter:
    copy = runs_pb2.RunFilter()
    if given is not None:
        copy.CopyFrom(given)
    if copy.queue:
        copy.queue = shorthand.queue(copy.queue)
    if copy.job:
        copy.job = shorthand.job_or_version(copy.job)
    return copy


def _batches(submissions: Iterable[runs_pb2.RunSubmission]) -> Iterator[list[runs_pb2.RunSubmission]]:
    batch: list[runs_pb2.RunSubmission] = []
    size = 0
    for submission in submissions:
        if batch and (len(batch) == MOST_RUNS or size + submission.ByteSize() > MOST_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(submission)
        size += submission.ByteSize()
    if batch:
        yield batch
