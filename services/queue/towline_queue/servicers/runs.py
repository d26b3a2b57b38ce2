"""RunService over gRPC."""

from collections.abc import AsyncIterator
from typing import Any, Final

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from towline import names
from towline.errors import InvalidArgument
from towline.requests import pages
from towline.service.postgres import idempotent, transaction
from towline.v1 import runs_pb2, runs_pb2_grpc
from towline_queue.core.transitions import ACTIVE, TERMINAL, State
from towline_queue.prebuilding import Prebuilds
from towline_queue.run_views import view, views
from towline_queue.signals import Key, Signals, Topic
from towline_queue.storage import run_lists, runs
from towline_queue.storage.run_lists import RunFilter
from towline_queue.storage.tables import requests
from towline_queue.submitting import Submitter

__all__ = ["RunServicer"]

# Well below the largest message that either side takes.
_PAGE_BYTES: Final = 8 * 1024 * 1024


class RunServicer(runs_pb2_grpc.RunServiceServicer):
    """Translates between RunService and the runs in PostgreSQL.

    Args:
        engine: The database.
        signals: Tells when runs change.
        submitter: Takes submissions.
        prebuilds: Has new job versions built.
    """

    def __init__(
        self, engine: AsyncEngine, signals: Signals, submitter: Submitter, prebuilds: Prebuilds
    ) -> None:
        self._engine = engine
        self._signals = signals
        self._submitter = submitter
        self._prebuilds = prebuilds

    async def SubmitRun(self, request: runs_pb2.SubmitRunRequest, context: Any) -> runs_pb2.SubmitRunResponse:
        """Queue one run."""
        return await self._submitter.submit(request)

    async def SubmitRuns(
        self, request: runs_pb2.SubmitRunsRequest, context: Any
    ) -> runs_pb2.SubmitRunsResponse:
        """Queue all of them or none."""
        return await self._submitter.submit_all(request)

    async def StreamSubmitRuns(  # type: ignore[override]  # a coroutine that writes itself, not a generator
        self, request_iterator: AsyncIterator[runs_pb2.StreamSubmitRunsRequest], context: Any
    ) -> None:
        """Queue one batch after the other, each whole or not at all."""
        await self._submitter.submit_stream(request_iterator, context.write)

    async def GetRun(self, request: runs_pb2.GetRunRequest, context: Any) -> runs_pb2.GetRunResponse:
        """Return one run."""
        name = names.run(request.name)
        async with transaction(self._engine) as connection:
            return runs_pb2.GetRunResponse(run=await view(connection, name))

    async def ListRuns(self, request: runs_pb2.ListRunsRequest, context: Any) -> runs_pb2.ListRunsResponse:
        """Return a page of runs, newest first."""
        wanted = _filter(request.filter)
        question = request.filter.SerializeToString(deterministic=True)
        before = pages.page_start(question, request.page_token, str)
        size = pages.page_size(request.page_size)
        async with transaction(self._engine) as connection:
            page = await run_lists.newest_first(
                connection, wanted, before=before, size=size, most_bytes=_PAGE_BYTES
            )
            listed = await views(connection, page.records)
        token = "" if page.after is None else pages.next_token(question, page.after)
        return runs_pb2.ListRunsResponse(runs=listed, next_page_token=token)

    async def WatchRun(
        self, request: runs_pb2.WatchRunRequest, context: Any
    ) -> AsyncIterator[runs_pb2.WatchRunResponse]:
        """Send the run as it is now, then again at each change, until it has ended."""
        name = names.run(request.name)
        sent: runs_pb2.Run | None = None
        with self._signals.watching(Key(Topic.RUN, name)) as watch:
            while True:
                async with transaction(self._engine) as connection:
                    run = await view(connection, name)
                if run != sent:
                    yield runs_pb2.WatchRunResponse(run=run)
                    sent = run
                if State(run.state) in TERMINAL:
                    return
                await watch.wait()

    async def CancelRun(self, request: runs_pb2.CancelRunRequest, context: Any) -> runs_pb2.CancelRunResponse:
        """Cancel a waiting run, or ask for an active one to be stopped."""
        name = names.run(request.name)

        async def apply(connection: AsyncConnection) -> runs_pb2.CancelRunResponse:
            await runs.cancel(connection, name)
            return runs_pb2.CancelRunResponse(run=await view(connection, name))

        response = await idempotent(self._engine, requests, request, runs_pb2.CancelRunResponse, apply)
        self._signals.run_changed(name)
        if State(response.run.state) in ACTIVE:
            self._signals.stop_requested(name)
        return response

    async def PreemptRun(
        self, request: runs_pb2.PreemptRunRequest, context: Any
    ) -> runs_pb2.PreemptRunResponse:
        """Have a run's current attempt stopped and the run queued again."""
        name = names.run(request.name)

        async def apply(connection: AsyncConnection) -> runs_pb2.PreemptRunResponse:
            await runs.preempt(connection, name)
            return runs_pb2.PreemptRunResponse(run=await view(connection, name))

        response = await idempotent(self._engine, requests, request, runs_pb2.PreemptRunResponse, apply)
        self._signals.run_changed(name)
        self._signals.stop_requested(name)
        return response

    async def RetryRun(self, request: runs_pb2.RetryRunRequest, context: Any) -> runs_pb2.RetryRunResponse:
        """Queue a run that has ended once more."""
        return await self._submitter.retry(request)

    async def PrebuildJobVersion(
        self, request: runs_pb2.PrebuildJobVersionRequest, context: Any
    ) -> runs_pb2.PrebuildJobVersionResponse:
        """Queue a run that only builds in each queue that asks for it."""
        name = names.job_version(request.job_version, "job_version")
        return runs_pb2.PrebuildJobVersionResponse(runs=await self._prebuilds.submit(name))


def _filter(message: runs_pb2.RunFilter) -> RunFilter:
    if message.queue:
        names.queue(message.queue, "filter.queue")
    if "/versions/" in message.job:
        names.job_version(message.job, "filter.job")
    elif message.job:
        names.job(message.job, "filter.job")
    for state in message.states:
        if state == runs_pb2.RUN_STATE_UNSPECIFIED or state not in runs_pb2.RunState.values():
            raise InvalidArgument.field("filter.states", f"{state} is no state of a run")
    for text in [message.author, *message.labels, *message.labels.values()]:
        if "\0" in text:
            raise InvalidArgument.field("filter", "a NUL character is in no author or label; leave it out")
    return RunFilter(
        queue=message.queue,
        job=message.job,
        states=tuple(message.states),
        author=message.author,
        labels=dict(message.labels),
    )
