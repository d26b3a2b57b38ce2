"""Towline, driven through gRPC: arguments: REGISTRY QUEUE SESSIONS SLOTS"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.metadata import version
from typing import Any, Final
from uuid import uuid4

import grpc

from bench.queue import worker_session
from bench.queue.sides import IN_FLIGHT, PAYLOAD, Load, Probes, batches, pause, submit_in_flight
from bench.queue.worker_session import Session
from towline.client import AsyncClient, Endpoints
from towline.rpc.channel import open_channel
from towline.v1 import jobs_pb2, leases_pb2, queues_pb2, runs_pb2, runs_pb2_grpc

JOB: Final = "jobs/work"
QUEUE: Final = "queues/default"
SUBMISSION: Final = runs_pb2.RunSubmission(job=f"{JOB}/versions/v0", queue=QUEUE, config_json=PAYLOAD)
PROBE: Final = runs_pb2.RunSubmission()
PROBE.CopyFrom(SUBMISSION)
PROBE.display_name = "probe"
URGENT: Final = runs_pb2.RunSubmission()
URGENT.CopyFrom(SUBMISSION)
URGENT.priority = runs_pb2.PRIORITY_HIGH
PACKAGES: Final = ("grpcio", "protobuf", "asyncpg")
CALL_S: Final = 60.0


class TowlineSide:
    """See Side.

    Args:
        channel: To the queue service.
        sessions: Agent sessions that drain.
        slots: Of each of them; a variant of the drain each.
    """

    def __init__(self, channel: grpc.aio.Channel, sessions: int, slots: Sequence[int]) -> None:
        self._channel = channel
        self._sessions = sessions
        self._drains = {f"{sessions} sessions of {each} slots": each for each in slots}
        self._runs = runs_pb2_grpc.RunServiceStub(channel)

    async def about(self) -> dict[str, Any]:
        versions = {name: version(name) for name in PACKAGES}
        submit = list(IN_FLIGHT)
        if await self._can_stream():
            submit.append("stream")
        dispatch = ["one call each", *(["one stream"] if "stream" in submit else [])]
        return {"versions": versions, "submit": submit, "drain": list(self._drains), "dispatch": dispatch}

    async def submit(self, runs: int, variant: str) -> dict[str, Any]:
        if variant == "stream":
            return await self._stream(runs)
        return await submit_in_flight(runs, lambda count, _lane: self._submit(count), IN_FLIGHT[variant])

    async def drain(self, runs: int, variant: str) -> dict[str, Any]:
        left = runs
        drained = asyncio.Event()

        async def work(session: Session) -> None:
            nonlocal left
            async for committed in session.work():
                left -= committed
                if left <= 0:
                    drained.set()

        async with self._working(work, self._sessions, self._drains[variant]) as sessions:
            began = time.perf_counter()
            await _offer(sessions)
            await drained.wait()
            seconds = time.perf_counter() - began
            await _lay_down(sessions)
        return {"seconds": seconds, "runs": runs - left}

    async def dispatch(self, samples: int, warm_up: int, variant: str) -> dict[str, Any]:
        probes = Probes()
        submit_one = self._submit_one if variant == "one call each" else self._by_stream(samples)

        async def submit() -> None:
            await submit_one(PROBE)

        async def work(session: Session) -> None:
            async for _ in session.work(lambda _grant: probes.arrived()):
                pass

        async with self._working(work, sessions=1, slots=1) as (session,):
            await _offer([session])
            for _ in range(warm_up + samples):
                await probes.time(submit)
                while session.busy:  # else the slot may not be free yet
                    await pause()
                await pause()
            await _lay_down([session])
        return {"ms": probes.ms[warm_up:]}

    async def load(self, rate: float, seconds: float, variant: str) -> dict[str, Any]:
        probes = Probes()
        load = Load(rate, self._submit)

        def take(grant: leases_pb2.Grant) -> None:
            if grant.spec.display_name == "probe":
                probes.arrived()

        async def work(session: Session) -> None:
            async for committed in session.work(take):
                load.done += committed

        async with self._working(work, self._sessions, self._drains[variant]) as sessions:
            await _offer(sessions)
            async with load.running():
                until = time.monotonic() + seconds
                while time.monotonic() < until:
                    await probes.time(lambda: self._submit_one(PROBE))
                    await pause()
                    load.done -= 1  # the probe's own
            await _lay_down(sessions)
        return {"ms": probes.ms, "runs": load.done}

    async def overtake(self, samples: int, warm_up: int) -> dict[str, Any]:
        """Submit urgent runs over one stream, past all that wait; give the `ms` until the grant of each.

        The agent's one slot is freed once the submission is acknowledged: earlier, another would take it.
        """
        ms = []
        submit_one = self._by_stream(samples)
        async with worker_session.opened(self._channel, QUEUE, 1) as session:
            for _ in range(warm_up + samples):
                began = time.perf_counter()
                submitted = await submit_one(URGENT)
                await session.offer(1)
                while not (grants := (await session.hear()).grants):
                    pass
                ms.append((time.perf_counter() - began) * 1000)
                if [grant.spec.run for grant in grants] != [submitted]:
                    raise RuntimeError("another run was granted before the urgent one")
                await session.offer(0)
                await session.run(grants)
                done = 0
                while not done:
                    response = await session.hear()
                    await session.finish(response)
                    done = worker_session.committed(response)
                await pause()
        return {"ms": ms[warm_up:]}

    async def _submit(self, count: int) -> None:
        request = runs_pb2.SubmitRunsRequest(request_id=str(uuid4()), runs=[SUBMISSION] * count)
        await self._runs.SubmitRuns(request, timeout=CALL_S)

    async def _submit_one(self, submission: runs_pb2.RunSubmission) -> str:
        request = runs_pb2.SubmitRunRequest(request_id=str(uuid4()), run=submission)
        return (await self._runs.SubmitRun(request, timeout=CALL_S)).run.name

    def _by_stream(self, samples: int) -> Callable[[runs_pb2.RunSubmission], Awaitable[str]]:
        """Open a stream; return what submits a run by it, waits until it is stored, and gives its name."""
        stream = self._runs.StreamSubmitRuns(timeout=CALL_S + samples)

        async def submit_one(submission: runs_pb2.RunSubmission) -> str:
            request = runs_pb2.StreamSubmitRunsRequest(request_id=str(uuid4()), runs=[submission])
            await stream.write(request)
            response = await stream.read()
            if not isinstance(response, runs_pb2.StreamSubmitRunsResponse):
                raise RuntimeError(await stream.details())
            (name,) = response.runs
            return name

        return submit_one

    async def _can_stream(self) -> bool:
        call = self._runs.StreamSubmitRuns(timeout=CALL_S)
        await call.done_writing()
        return await call.code() is not grpc.StatusCode.UNIMPLEMENTED  # an older checkout's answer

    async def _stream(self, runs: int) -> dict[str, float]:
        sizes = batches(runs)
        call = self._runs.StreamSubmitRuns(timeout=CALL_S + len(sizes))

        async def write() -> None:
            for size in sizes:
                request = runs_pb2.StreamSubmitRunsRequest(request_id=str(uuid4()), runs=[SUBMISSION] * size)
                await call.write(request)
            await call.done_writing()

        began = time.perf_counter()
        answered = 0
        async with asyncio.TaskGroup() as group:
            group.create_task(write())
            while (response := await call.read()) is not grpc.aio.EOF:
                answered += len(response.runs)
        if answered != runs:
            raise RuntimeError(f"{answered} runs were stored of {runs}: {await call.details()}")
        return {"seconds": time.perf_counter() - began}

    @asynccontextmanager
    async def _working(
        self, work: Callable[[Session], Any], sessions: int, slots: int
    ) -> AsyncIterator[list[Session]]:
        """Run `work` on every one of some new sessions while the block runs; they offer nothing yet."""
        async with AsyncExitStack() as stack, asyncio.TaskGroup() as group:
            opened = [
                await stack.enter_async_context(worker_session.opened(self._channel, QUEUE, slots))
                for _ in range(sessions)
            ]
            tasks = [group.create_task(work(session)) for session in opened]
            yield opened
            for task in tasks:
                task.cancel()


async def _offer(sessions: list[Session]) -> None:
    """Have sessions take as many runs as they have slots."""
    for session in sessions:
        await session.offer()


async def _lay_down(sessions: list[Session]) -> None:
    """Have sessions finish what they hold and take no more.

    One that went while it had room could be given a run before the service notices.
    """
    for session in sessions:
        await session.offer(0)
    async with asyncio.timeout(CALL_S):
        while any(session.busy for session in sessions):
            await pause()


@asynccontextmanager
async def opened(registry: str, queue: str, sessions: str, slots: str) -> AsyncIterator[TowlineSide]:
    """Record a job and make a queue for it."""
    endpoints = Endpoints(registry=registry, queue=queue)
    async with AsyncClient(endpoints) as client, open_channel(queue) as channel:
        source = jobs_pb2.ImageSource(reference="debian:12")
        await client.jobs.create_version(
            JOB, jobs_pb2.JobSpec(image=source, entrypoint=["true"], config_json='{"payload":""}')
        )
        await client.queues.create("default", queues_pb2.QueueSpec())
        yield TowlineSide(channel, int(sessions), [int(each) for each in slots.split(",")])
