"""Deadlines, retries and streams of the client, against real gRPC servers that misbehave as told."""

import asyncio
import os
import queue
import signal
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial

import grpc
import pytest

from towline.client import AsyncClient, Client, Endpoints, calls
from towline.client.calls import MAX_FAILURES, Service
from towline.client.exchanges import AHEAD
from towline.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unavailable,
)
from towline.service.server import serving
from towline.service.settings import ServiceSettings
from towline.v1 import (
    logs_pb2,
    logs_pb2_grpc,
    queues_pb2,
    queues_pb2_grpc,
    runs_pb2,
    runs_pb2_grpc,
)
from towline_testing.waiting import eventually_async


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(calls, "Backoff", partial(calls.Backoff, first_s=0.001, most_s=0.01))


DOWN = Unavailable("on purpose", reason="ON_PURPOSE")


def run_in(state, *epochs, outputs=""):
    attempts = [runs_pb2.Attempt(epoch=epoch) for epoch in epochs]
    return runs_pb2.Run(name="runs/a", state=state, attempts=attempts, outputs=outputs)


RUNNING = run_in(runs_pb2.RUN_STATE_RUNNING, 1)
QUEUED = run_in(runs_pb2.RUN_STATE_QUEUED)
SUCCEEDED = run_in(runs_pb2.RUN_STATE_SUCCEEDED, 1)


class Misbehaving(
    runs_pb2_grpc.RunServiceServicer, queues_pb2_grpc.QueueServiceServicer, logs_pb2_grpc.LogServiceServicer
):
    """Answers each call with the next of `answers`: what is an exception is raised, a list is a stream."""

    def __init__(self, *answers) -> None:
        self.answers = list(answers)
        self.requests: list[object] = []
        self.refusals: dict[str, InvalidArgument] = {}
        self.cancelled = threading.Event()

    async def _answer(self, request):
        self.requests.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        if answer == "silence":
            await self._silence()
        return answer

    async def _silence(self) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            self.cancelled.set()

    async def _stream(self, request) -> AsyncIterator[object]:
        for item in await self._answer(request):
            if isinstance(item, Exception):
                raise item
            if item == "silence":
                await self._silence()
            yield item

    async def CreateQueue(self, request, context):
        return queues_pb2.CreateQueueResponse(queue=await self._answer(request))

    async def GetRun(self, request, context):
        return runs_pb2.GetRunResponse(run=await self._answer(request))

    async def SubmitRuns(self, request, context):
        self.requests.append(request)
        return runs_pb2.SubmitRunsResponse(runs=[f"runs/{run.display_name}" for run in request.runs])

    async def StreamSubmitRuns(self, request_iterator, context):
        async for request in request_iterator:
            self.requests.append(request)
            answer = self.answers.pop(0) if self.answers else None
            if isinstance(answer, InvalidArgument):
                self.refusals[request.request_id] = answer
            # It stays wrong: where a stream breaks under a write gRPC may not tell why, and it comes again.
            if request.request_id in self.refusals:
                raise self.refusals[request.request_id]
            if isinstance(answer, Exception):
                raise answer
            if answer == "silence":
                await self._silence()
            if answer != "dropped":
                names = [f"runs/{run.display_name}" for run in request.runs]
                yield runs_pb2.StreamSubmitRunsResponse(runs=names)

    async def WatchRun(self, request, context):
        async for run in self._stream(request):
            yield runs_pb2.WatchRunResponse(run=run)


@asynccontextmanager
async def served(servicer):
    def register(server: grpc.aio.Server) -> list[str]:
        runs_pb2_grpc.add_RunServiceServicer_to_server(servicer, server)
        queues_pb2_grpc.add_QueueServiceServicer_to_server(servicer, server)
        logs_pb2_grpc.add_LogServiceServicer_to_server(servicer, server)
        return []

    settings = ServiceSettings(listen="127.0.0.1:0", stop_grace_s=0.1)
    async with (
        serving(settings, register) as address,
        AsyncClient(Endpoints("127.0.0.1:1", address)) as client,
    ):
        yield client


async def test_an_unavailable_service_is_asked_again_with_the_same_request():
    servicer = Misbehaving(DOWN, DOWN, queues_pb2.Queue(name="queues/a"))
    async with served(servicer) as client:
        assert (await client.queues.create("a", queues_pb2.QueueSpec())).name == "queues/a"
        await client.queues.create("a", queues_pb2.QueueSpec())
    first, second, third, other = servicer.requests
    assert first.request_id
    assert first == second == third
    assert other.request_id != first.request_id


async def test_a_service_that_stays_away_is_given_up():
    servicer = Misbehaving(DOWN)
    async with served(servicer) as client:
        with pytest.raises(Unavailable) as caught:
            await client.runs.get("a")
    assert caught.value.reason == "ON_PURPOSE"
    assert len(servicer.requests) == MAX_FAILURES + 1


@pytest.mark.parametrize(
    "error", [InvalidArgument.field("x", "wrong"), NotFound("no", reason="RUN_NOT_FOUND")]
)
async def test_a_wrong_request_is_not_sent_again(error):
    servicer = Misbehaving(error)
    async with served(servicer) as client:
        with pytest.raises(type(error)) as caught:
            await client.runs.get("a")
    assert (caught.value.reason, caught.value.metadata) == (error.reason, error.metadata)
    assert len(servicer.requests) == 1


async def test_an_overloaded_service_is_asked_again_when_it_says_so_and_not_otherwise():
    soon = ResourceExhausted("later", reason="OVERLOADED", retry_after=timedelta(milliseconds=50))
    servicer = Misbehaving(soon, RUNNING)
    async with served(servicer) as client:
        assert await client.runs.get("a") == RUNNING
        servicer.answers = [ResourceExhausted("no", reason="TOO_MANY")]
        with pytest.raises(ResourceExhausted):
            await client.runs.get("a")
    assert len(servicer.requests) == 3


async def test_a_call_ends_at_its_deadline_retries_included():
    servicer = Misbehaving(DOWN, "silence")
    async with served(servicer) as client:
        service = Service("the queue service", client.endpoints.queue)
        stub = runs_pb2_grpc.RunServiceStub(service.channel)
        begun = time.monotonic()
        with pytest.raises(DeadlineExceeded, match="the queue service at"):
            await service.call(stub.GetRun, runs_pb2.GetRunRequest(name="runs/a"), timeout_s=0.5)
        assert time.monotonic() - begun < 2
        await service.close()


async def test_many_runs_go_in_batches_in_their_order(monkeypatch):
    monkeypatch.setattr("towline.client.runs.MOST_RUNS", 3)
    servicer = Misbehaving()
    submissions = [runs_pb2.RunSubmission(job="a", queue="q", display_name=str(n)) for n in range(7)]
    async with served(servicer) as client:
        assert await client.runs.submit_many(submissions) == [f"runs/{n}" for n in range(7)]
    assert [len(request.runs) for request in servicer.requests] == [3, 3, 1]
    assert servicer.requests[0].runs[0].job == "jobs/a/versions/latest"
    assert servicer.requests[0].runs[0].queue == "queues/q"
    assert submissions[0].job == "a"
    large = [runs_pb2.RunSubmission(job="a", queue="q", config_json="x" * 3_000_000) for _ in range(4)]
    servicer.requests.clear()
    async with served(servicer) as client:
        await client.runs.submit_many(large)
    assert [len(request.runs) for request in servicer.requests] == [2, 2]


def numbered(count):
    return [runs_pb2.RunSubmission(job="a", queue="q", display_name=str(n)) for n in range(count)]


async def test_batches_without_an_answer_are_sent_again_with_their_ids(monkeypatch):
    monkeypatch.setattr("towline.client.runs.MOST_RUNS", 1)
    soon = ResourceExhausted("later", reason="OVERLOADED", retry_after=timedelta(milliseconds=5))
    # Two are answered, one is read but not answered, and then the stream breaks; twice more before the next.
    servicer = Misbehaving(None, None, DOWN, soon, DOWN)
    async with served(servicer) as client:
        assert await client.runs.submit_many(numbered(12)) == [f"runs/{n}" for n in range(12)]
    by_run = {}
    for request in servicer.requests:
        by_run.setdefault(request.runs[0].display_name, []).append(request.request_id)
    assert [len(ids) for ids in by_run.values()] == [1, 1, 4] + [1] * 9
    assert all(len(set(ids)) == 1 for ids in by_run.values())
    assert len({ids[0] for ids in by_run.values()}) == 12


async def test_a_service_that_is_away_for_good_ends_many_submissions(monkeypatch):
    monkeypatch.setattr("towline.client.runs.MOST_RUNS", 1)
    async with served(Misbehaving(*[DOWN] * (MAX_FAILURES + 1))) as client:
        # The second is what gRPC tells where the stream breaks under a write that is on its way.
        with pytest.raises(Unavailable, match=r"on purpose|Internal error from Core"):
            await client.runs.submit_many(numbered(3))


async def test_a_refused_batch_and_a_wrong_submission_end_many_submissions(monkeypatch):
    monkeypatch.setattr("towline.client.runs.MOST_RUNS", 1)
    servicer = Misbehaving(None, InvalidArgument("wrong", reason="INVALID_FIELD"))
    async with served(servicer) as client:
        with pytest.raises(InvalidArgument, match="wrong"):
            await client.runs.submit_many(numbered(9))
        servicer.answers = []
        with pytest.raises(InvalidArgument, match="queue"):
            await client.runs.submit_many([*numbered(9), runs_pb2.RunSubmission(job="a", queue="q q")])


async def test_a_silent_service_ends_many_submissions(monkeypatch):
    monkeypatch.setattr("towline.client.runs.MOST_RUNS", 1)
    monkeypatch.setattr("towline.client.exchanges.UNARY_TIMEOUT_S", 0.3)
    servicer = Misbehaving(None, "silence")
    async with served(servicer) as client:
        with pytest.raises(DeadlineExceeded, match="no answer"):
            await client.runs.submit_many(numbered(9))
        assert await asyncio.to_thread(servicer.cancelled.wait, 10)


async def test_no_more_batches_are_taken_than_may_be_on_their_way(monkeypatch):
    monkeypatch.setattr("towline.client.runs.MOST_RUNS", 1)
    taken = []

    def submissions():
        for submission in numbered(50):
            taken.append(submission)
            yield submission

    servicer = Misbehaving(None, "silence")
    async with served(servicer) as client, asyncio.TaskGroup() as group:
        call = group.create_task(client.runs.submit_many(submissions()))

        async def full():
            return len(servicer.requests) == 2 and len(taken) > AHEAD + 1

        await eventually_async(full)
        call.cancel()
    assert len(taken) <= 1 + AHEAD + 1  # one is answered, and one is looked at to see that a batch is full


async def test_a_watch_goes_on_over_broken_streams_and_gives_each_change_once():
    servicer = Misbehaving(
        DOWN, [QUEUED, RUNNING, DOWN], *[DOWN] * (MAX_FAILURES + 2), [RUNNING, DOWN], [RUNNING, SUCCEEDED]
    )
    async with served(servicer) as client:
        assert [run async for run in client.runs.watch("a")] == [QUEUED, RUNNING, SUCCEEDED]
    assert len(servicer.answers) == 1


async def test_a_watch_that_ends_too_early_is_opened_again():
    servicer = Misbehaving([RUNNING], [], [RUNNING, SUCCEEDED])
    async with served(servicer) as client:
        assert await client.runs.wait("a") == SUCCEEDED


async def test_a_watch_of_a_service_that_was_never_there_is_given_up():
    servicer = Misbehaving(DOWN)
    async with served(servicer) as client:
        with pytest.raises(Unavailable):
            await client.runs.wait("a")


async def test_leaving_a_watch_ends_its_stream():
    servicer = Misbehaving([RUNNING, "silence"])
    async with served(servicer) as client:
        changes = client.runs.watch("a")
        assert await anext(changes) == RUNNING
        await changes.aclose()
        assert await asyncio.to_thread(servicer.cancelled.wait, 5)


async def test_outputs_of_a_run_that_has_none_are_told_apart(tmp_path):
    servicer = Misbehaving(RUNNING, SUCCEEDED)
    async with served(servicer) as client:
        with pytest.raises(FailedPrecondition) as early:
            await client.runs.outputs("a", tmp_path)
        with pytest.raises(NotFound) as never:
            await client.runs.outputs("a", tmp_path)
    assert (early.value.reason, never.value.reason) == ("RUN_NOT_ENDED", "NO_OUTPUTS")


class FlakyLogs(Misbehaving):
    """Serves the logs of attempts as logs.proto says, in pieces of 3 bytes, and breaks as told.

    Args:
        logs: Bytes by epoch.
        breaks: Pieces that each stream sends before it breaks; after the last one streams are sound.
        known: How many of the attempts there are when each stream is opened; after the last, all.
    """

    def __init__(self, logs: dict[int, bytes], breaks: list[int], known: list[int] | None = None) -> None:
        super().__init__()
        self.logs, self.breaks, self.known = logs, breaks, known or []

    async def TailLogs(self, request, context):
        self.requests.append(request)
        left = self.breaks.pop(0) if self.breaks else None
        count = self.known.pop(0) if self.known else len(self.logs)
        epochs = list(self.logs)
        at = epochs.index(request.epoch) if request.epoch else count - 1
        readable = epochs[at : at + 1] if request.epoch or not request.follow else epochs[at:]
        for epoch in readable:
            start = request.offset if epoch == epochs[at] else 0
            start = max(len(self.logs[epoch]) + start, 0) if start < 0 else start
            for offset in range(start, len(self.logs[epoch]), 3):
                if left == 0:
                    raise DOWN
                left = None if left is None else left - 1
                data = self.logs[epoch][offset : offset + 3]
                yield logs_pb2.TailLogsResponse(epoch=epoch, offset=offset, data=data)
        if left is not None:
            raise DOWN

    async def WatchRun(self, request, context):
        yield runs_pb2.WatchRunResponse(run=run_in(runs_pb2.RUN_STATE_RUNNING, *list(self.logs)[:1]))
        yield runs_pb2.WatchRunResponse(run=run_in(runs_pb2.RUN_STATE_SUCCEEDED, *self.logs))


async def read(client, **options):
    found: dict[int, bytes] = {}
    ends: dict[int, int] = {}
    async for piece in client.logs.tail("a", **options):
        assert piece.offset == ends.get(piece.epoch, piece.offset)
        ends[piece.epoch] = piece.offset + len(piece.data)
        found[piece.epoch] = found.get(piece.epoch, b"") + piece.data
    return found


LOGS = {1: b"the first attempt", 4: b"", 5: b"the second one", 9: b"the last"}


@pytest.mark.parametrize("breaks", [[], [0], [1], [2, 0, 1, 3], [5, 100], [0, 0, 0, 6, 1, 1, 1]])
async def test_a_followed_log_is_whole_over_attempts_and_broken_streams(breaks):
    servicer = FlakyLogs(LOGS, list(breaks), known=[1] * 20)
    async with served(servicer) as client:
        assert await read(client, follow=True) == {epoch: log for epoch, log in LOGS.items() if log}


async def test_an_attempt_that_broke_off_is_read_to_its_end_though_there_are_newer_ones():
    servicer = FlakyLogs(LOGS, [2], known=[1, 4, 4, 4, 4])
    async with served(servicer) as client:
        assert await read(client, follow=True) == {epoch: log for epoch, log in LOGS.items() if log}
    assert [(request.epoch, request.offset) for request in servicer.requests] == [
        (0, 0),
        (1, 6),
        (4, 0),
        (5, 0),
        (9, 0),
    ]


@pytest.mark.parametrize("breaks", [[], [1, 0, 1]])
async def test_without_follow_one_attempt_is_read(breaks):
    async with served(FlakyLogs(LOGS, list(breaks))) as client:
        assert await read(client) == {9: b"the last"}
    async with served(FlakyLogs(LOGS, list(breaks))) as client:
        assert await read(client, epoch=5, follow=True) == {5: b"the second one"}
    async with served(FlakyLogs(LOGS, list(breaks))) as client:
        assert await read(client, epoch=1, offset=-7) == {1: b"attempt"}


async def served_until(servicer, address, stop):
    async with served(servicer) as client:
        address.put(client.endpoints)
        await asyncio.to_thread(stop.wait)


@pytest.fixture
def in_thread():
    """Serve from a thread, so that the main thread can be interrupted as a person's is."""
    stop = threading.Event()
    threads = []

    def start(servicer):
        address: queue.Queue[Endpoints] = queue.Queue()
        thread = threading.Thread(target=asyncio.run, args=(served_until(servicer, address, stop),))
        thread.start()
        threads.append(thread)
        return address.get(timeout=10)

    yield start
    stop.set()
    for thread in threads:
        thread.join()


def test_ctrl_c_ends_a_waiting_client_and_its_call(in_thread):
    servicer = Misbehaving([RUNNING, "silence"])
    with Client(in_thread(servicer)) as client:
        seen = []
        with pytest.raises(KeyboardInterrupt):
            for run in client.runs.watch("a"):
                seen.append(run)
                os.kill(os.getpid(), signal.SIGINT)
        assert seen == [RUNNING]
        assert servicer.cancelled.wait(5)
        servicer.answers = [[SUCCEEDED]]
        assert client.runs.wait("a") == SUCCEEDED
