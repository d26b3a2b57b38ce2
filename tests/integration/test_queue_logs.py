"""Logs over gRPC: appended, fenced, read, followed."""

import asyncio
import itertools
import random
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from towline.rpc.channel import MAX_CHUNK_BYTES
from towline.v1 import leases_pb2, logs_pb2, runs_pb2
from towline_testing.errors import refusal
from towline_testing.fake_agent import FakeAgent
from towline_testing.lease_world import LeaseWorld, lease_world
from towline_testing.queue import QueueService

OUTPUT, BUILD = logs_pb2.LOG_STREAM_OUTPUT, logs_pb2.LOG_STREAM_BUILD
INVALID = (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")


@pytest.fixture
async def world(database_url: str, tmp_path: Path) -> AsyncIterator[LeaseWorld]:
    async with lease_world(database_url, tmp_path) as world:
        yield world


def piece(
    grant: leases_pb2.Grant, offset: int, data: bytes, stream: int = OUTPUT, epoch: int = 0
) -> logs_pb2.AppendLogsRequest:
    return logs_pb2.AppendLogsRequest(
        run=grant.spec.run, epoch=epoch or grant.epoch, stream=stream, offset=offset, data=data
    )


async def append(service: QueueService, *requests: logs_pb2.AppendLogsRequest) -> list[tuple[int, bool]]:
    """Send pieces in one call; return committed offset and staleness of each answer."""
    call = service.logs.AppendLogs(iter(requests))
    answers = [answer async for answer in call]
    for request, answer in zip(requests, answers, strict=True):
        assert (answer.run, answer.epoch, answer.stream) == (request.run, request.epoch, request.stream)
    return [(answer.committed_offset, answer.stale) for answer in answers]


async def tail(
    service: QueueService,
    run: str,
    *,
    offset: int = 0,
    epoch: int = 0,
    stream: int = OUTPUT,
    follow: bool = False,
) -> list[tuple[int, int, bytes]]:
    request = logs_pb2.TailLogsRequest(run=run, epoch=epoch, stream=stream, offset=offset, follow=follow)
    return [(part.epoch, part.offset, part.data) async for part in service.logs.TailLogs(request)]


async def text(service: QueueService, run: str, **wanted: object) -> bytes:
    """Read a log and check that its pieces follow each other within each attempt."""
    parts = await tail(service, run, **wanted)
    for (epoch, offset, data), (next_epoch, next_offset, _) in itertools.pairwise(parts):
        assert next_epoch > epoch or next_offset == offset + len(data)
    assert all(0 < len(data) <= MAX_CHUNK_BYTES for _, _, data in parts)
    return b"".join(data for _, _, data in parts)


async def refused_append(service: QueueService, request: logs_pb2.AppendLogsRequest) -> object:
    return await refusal(append(service, request))


async def test_bytes_are_kept_once_and_a_gap_is_refused(world: LeaseWorld) -> None:
    service, agent = world.service, FakeAgent()
    async with agent.connected(service.channel) as session:
        await session.beat()
        run = await world.submit()
        grant = await session.next_accepted()
        assert await text(service, run) == b""
        answers = await append(
            service,
            piece(grant, 0, b""),
            piece(grant, 0, b"hello "),
            piece(grant, 0, b"hello wor"),
            piece(grant, 20, b"gap"),
            piece(grant, 9, b"ld\n"),
            piece(grant, 0, b"Step 1", BUILD),
        )
        assert answers == [(0, False), (6, False), (9, False), (9, False), (12, False), (6, False)]
        assert await append(service, piece(grant, 3, b"")) == [(12, False)]
        assert await text(service, run) == b"hello world\n"
        assert await text(service, run, stream=logs_pb2.LOG_STREAM_UNSPECIFIED) == b"hello world\n"
        assert await text(service, run, stream=BUILD) == b"Step 1"
        assert await text(service, run, offset=6) == b"world\n"
        assert await text(service, run, offset=12) == b""
        assert await text(service, run, offset=-3) == b"ld\n"
        assert await text(service, run, offset=-99) == b"hello world\n"
        assert await text(service, run, epoch=grant.epoch) == b"hello world\n"
        past = await refusal(tail(service, run, offset=13))
        assert past == (grpc.StatusCode.OUT_OF_RANGE, "LOG_OFFSET_GAP")
        assert past.metadata == {"offset": "13", "size": "12"}
        await session.finish(grant)
    assert await text(service, run, follow=True) == b"hello world\n"


async def test_a_stale_or_unknown_attempt_takes_nothing_and_ends_no_call(world: LeaseWorld) -> None:
    service, agent = world.service, FakeAgent()
    async with agent.connected(service.channel) as session:
        await session.beat()
        run = await world.submit()
        grant = await session.next_accepted()
        unknown = logs_pb2.AppendLogsRequest(run="runs/none", epoch=1, data=b"x")
        answers = await append(
            service,
            piece(grant, 0, b"abc"),
            piece(grant, 0, b"old", epoch=7),
            unknown,
            piece(grant, 3, b"def"),
        )
        assert answers == [(3, False), (0, True), (0, True), (6, False)]
        await session.finish(grant)
        assert await append(service, piece(grant, 6, b"late")) == [(6, True)]
    assert await text(service, run) == b"abcdef"


async def test_what_is_wrong_is_refused(world: LeaseWorld) -> None:
    service, agent = world.service, FakeAgent()
    async with agent.connected(service.channel) as session:
        await session.beat()
        run = await world.submit()
        grant = await session.next_accepted()
        assert await refused_append(service, piece(grant, 0, b"x" * (MAX_CHUNK_BYTES + 1))) == INVALID
        assert await refused_append(service, piece(grant, -1, b"x")) == INVALID
        assert await refused_append(service, piece(grant, 0, b"x", stream=9)) == INVALID
        assert await refused_append(service, logs_pb2.AppendLogsRequest(run="x")) == INVALID
        assert await refusal(tail(service, "x")) == INVALID
        assert await refusal(tail(service, run, epoch=-1)) == INVALID
        assert await refusal(tail(service, run, stream=9)) == INVALID
        missing = grpc.StatusCode.NOT_FOUND
        assert await refusal(tail(service, "runs/none")) == (missing, "RUN_NOT_FOUND")
        assert await refusal(tail(service, run, epoch=99)) == (missing, "ATTEMPT_NOT_FOUND")
        await session.finish(grant)


async def test_a_large_log_comes_back_byte_for_byte(world: LeaseWorld) -> None:
    service, agent = world.service, FakeAgent()
    numbers = random.Random(1)
    log = numbers.randbytes(5_000_000)
    async with agent.connected(service.channel) as session:
        await session.beat()
        run = await world.submit()
        grant = await session.next_accepted()
        requests, offset = [], 0
        while offset < len(log):
            size = numbers.choice([1, 80, 10_000, 300_000, MAX_CHUNK_BYTES])
            requests.append(piece(grant, offset, log[offset : offset + size]))
            offset = min(offset + size, len(log))
        answers = await append(service, *requests)
        assert answers[-1] == (len(log), False)
        assert await text(service, run) == log
        assert await text(service, run, offset=1_234_567) == log[1_234_567:]
        await session.finish(grant)


async def test_two_writers_of_one_log_leave_one_log(world: LeaseWorld) -> None:
    agent = FakeAgent()
    log = bytes(range(256)) * 40
    async with world.another() as replica, agent.connected(world.service.channel) as session:
        await session.beat()
        run = await world.submit()
        grant = await session.next_accepted()
        pieces = [piece(grant, offset, log[offset : offset + 100]) for offset in range(0, len(log), 100)]
        async with asyncio.TaskGroup() as tasks:
            for service in (world.service, replica, world.service, replica):
                tasks.create_task(_append_until_there(service, pieces))
        assert await text(replica, run) == log
        await session.finish(grant)


async def _append_until_there(service: QueueService, pieces: list[logs_pb2.AppendLogsRequest]) -> None:
    for request in pieces:
        (answer,) = await append(service, request)
        assert answer[0] >= request.offset + len(request.data)


async def test_a_follower_gets_all_bytes_as_they_come_and_ends_with_the_run(world: LeaseWorld) -> None:
    agent = FakeAgent()
    run = await world.submit()
    async with world.another() as replica, asyncio.TaskGroup() as tasks:
        near = tasks.create_task(text(world.service, run, follow=True))
        far = tasks.create_task(text(replica, run, follow=True))
        request = logs_pb2.TailLogsRequest(run=run, stream=OUTPUT, follow=True)
        live = aiter(world.service.logs.TailLogs(request))
        async with agent.connected(world.service.channel) as session:
            await session.beat()
            grant = await session.next_accepted()
            await append(world.service, piece(grant, 0, b"one\n"))
            assert (await anext(live)).data == b"one\n"
            await append(world.service, piece(grant, 4, b"two\n"))
            assert (await anext(live)).data == b"two\n"
            await append(world.service, piece(grant, 8, b"three\n"))
            await session.finish(grant)
        assert [part.data async for part in live] == [b"three\n"]
    assert near.result() == far.result() == b"one\ntwo\nthree\n"


async def test_a_follower_goes_on_to_the_next_attempt(world: LeaseWorld) -> None:
    agent = FakeAgent()
    run = await world.submit()
    async with asyncio.TaskGroup() as tasks:
        live = aiter(
            world.service.logs.TailLogs(logs_pb2.TailLogsRequest(run=run, stream=OUTPUT, follow=True))
        )
        async with agent.connected(world.service.channel) as session:
            await session.beat()
            first = await session.next_accepted()
            await append(world.service, piece(first, 0, b"first"))
            part = await anext(live)  # before the next attempt begins, for a follower starts with the newest
            assert (part.epoch, part.offset, part.data) == (first.epoch, 0, b"first")
            one_only = tasks.create_task(text(world.service, run, epoch=first.epoch, follow=True))
            await session.release(first)
            await session.beat()
            second = await session.next_accepted()
            assert second.epoch > first.epoch
            await append(world.service, piece(second, 0, b"second"))
            await session.finish(second)
    assert one_only.result() == b"first"
    assert [(part.epoch, part.offset, part.data) async for part in live] == [(second.epoch, 0, b"second")]
    assert await text(world.service, run) == b"second"
    assert await text(world.service, run, epoch=first.epoch) == b"first"


async def test_following_a_run_that_never_started_ends_with_it(world: LeaseWorld) -> None:
    run = await world.submit()
    assert await text(world.service, run) == b""
    async with asyncio.TaskGroup() as tasks:
        following = tasks.create_task(text(world.service, run, follow=True))
        await world.cancel(run)
    assert following.result() == b""


async def test_a_follower_that_reads_nothing_holds_no_writer_up(world: LeaseWorld) -> None:
    service, agent = world.service, FakeAgent()
    async with agent.connected(service.channel) as session:
        await session.beat()
        run = await world.submit()
        grant = await session.next_accepted()
        idle = aiter(service.logs.TailLogs(logs_pb2.TailLogsRequest(run=run, stream=OUTPUT, follow=True)))
        await append(service, piece(grant, 0, b"x"))
        await anext(idle)
        for number in range(16):
            start = 1 + number * MAX_CHUNK_BYTES
            answers = await append(service, piece(grant, start, b"y" * MAX_CHUNK_BYTES))
            assert answers == [(start + MAX_CHUNK_BYTES, False)]
        await session.finish(grant)
    rest = [part.data async for part in idle]
    assert sum(map(len, rest)) == 16 * MAX_CHUNK_BYTES
    assert (await world.get(run)).state == runs_pb2.RUN_STATE_SUCCEEDED
