"""Log shipping over real gRPC: bounded, resumed, one bad log holds up no other."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from towline.errors import OutOfRange
from towline.rpc.channel import open_channel
from towline.v1 import logs_pb2
from towline_agent.logs import LogPipe
from towline_testing.lease_peer import LeasePeer

OUTPUT, BUILD = logs_pb2.LOG_STREAM_OUTPUT, logs_pb2.LOG_STREAM_BUILD
MIB = 2**20


@pytest.fixture
async def peer() -> AsyncIterator[LeasePeer]:
    async with LeasePeer().serving() as serving:
        yield serving


@pytest.fixture
async def pipe(peer: LeasePeer) -> AsyncIterator[LogPipe]:
    async with open_channel(peer.address) as channel, asyncio.TaskGroup() as group:
        made = LogPipe(channel, "the peer")
        running = group.create_task(made.run())
        yield made
        running.cancel()


async def test_logs_of_many_attempts_go_over_one_call(peer: LeasePeer, pipe: LogPipe) -> None:
    writers = [pipe.writer(f"runs/{number}", 1, stream) for number in range(5) for stream in (OUTPUT, BUILD)]
    for round_ in range(20):
        for writer in writers:
            await writer.write(b"%d " % round_ * 100)
    expected = b"".join(b"%d " % number * 100 for number in range(20))
    for writer in writers:
        assert await writer.flush() == len(expected)
        assert bytes(peer.logs[writer.key]) == expected


async def test_a_log_goes_on_where_the_service_stands(peer: LeasePeer, pipe: LogPipe) -> None:
    peer.logs["runs/a", 1, OUTPUT] = bytearray(b"0123456789")
    writer = pipe.writer("runs/a", 1, OUTPUT)
    assert await writer.position() == 10
    await writer.write(b"more")
    assert await writer.flush() == 14
    assert bytes(peer.logs["runs/a", 1, OUTPUT]) == b"0123456789more"


async def test_a_writer_waits_while_nothing_is_acknowledged(peer: LeasePeer, pipe: LogPipe) -> None:
    writer = pipe.writer("runs/a", 1, OUTPUT)
    await writer.position()
    peer.log_delay.clear()
    written = 0
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1):
            while True:
                await writer.write(bytes(MIB))
                written += MIB
    assert written == 4 * MIB
    peer.log_delay.set()
    await writer.write(b"end")
    assert await writer.flush() == written + 3
    assert len(peer.logs["runs/a", 1, OUTPUT]) == written + 3


async def test_small_writes_are_gathered_while_answers_are_owed(peer: LeasePeer, pipe: LogPipe) -> None:
    writer = pipe.writer("runs/a", 1, OUTPUT)
    await writer.position()
    peer.log_delay.clear()
    for number in range(1000):
        await writer.write(b"%04d" % number)
        await asyncio.sleep(0)  # lets the sender send each by itself
    peer.log_delay.set()
    assert await writer.flush() == 4000
    assert bytes(peer.logs[writer.key]) == b"".join(b"%04d" % number for number in range(1000))
    assert len(peer.log_requests) < 10


async def test_a_stale_epoch_ends_its_log_and_no_other(peer: LeasePeer, pipe: LogPipe) -> None:
    peer.stale_logs.add("runs/a")
    stale, good = pipe.writer("runs/a", 1, OUTPUT), pipe.writer("runs/b", 1, OUTPUT)
    await stale.write(b"nobody wants this")
    assert await stale.flush() == 0
    assert stale.refused
    await good.write(b"x")
    assert await good.flush() == 1


async def test_a_refused_log_ends_and_the_others_go_on(peer: LeasePeer, pipe: LogPipe) -> None:
    good = pipe.writer("runs/b", 1, OUTPUT)
    await good.write(b"one")
    peer.log_refusals["runs/a"] = OutOfRange("a gap", reason="LOG_OFFSET_GAP")
    bad = pipe.writer("runs/a", 1, OUTPUT)
    await bad.write(b"x")
    await bad.flush()
    assert bad.refused
    await good.write(b" two")
    assert await good.flush() == 7
    assert bytes(peer.logs["runs/b", 1, OUTPUT]) == b"one two"


async def test_a_closed_log_is_forgotten(peer: LeasePeer, pipe: LogPipe) -> None:
    writer = pipe.writer("runs/a", 1, OUTPUT)
    assert pipe.writer("runs/a", 1, OUTPUT) is writer
    pipe.close("runs/a", 1)
    assert pipe.writer("runs/a", 1, OUTPUT) is not writer


async def test_a_service_that_restarts_loses_nothing() -> None:
    peer = LeasePeer()
    async with peer.serving(), open_channel(peer.address) as channel, asyncio.TaskGroup() as group:
        pipe = LogPipe(channel, "the peer")
        running = group.create_task(pipe.run())
        writer = pipe.writer("runs/a", 1, OUTPUT)
        await writer.write(b"before ")
        await writer.flush()
        running.cancel()
    async with open_channel(peer.address) as channel, asyncio.TaskGroup() as group:
        pipe = LogPipe(channel, "the peer")
        running = group.create_task(pipe.run())
        writer = pipe.writer("runs/a", 1, OUTPUT)
        waiting = group.create_task(writer.write(b"during "))
        async with peer.serving(peer.address):
            await waiting
            assert await writer.flush() == 14
        await writer.write(b"away")
        flushing = group.create_task(writer.flush())
        async with peer.serving(peer.address):
            assert await flushing == 18
        running.cancel()
    assert bytes(peer.logs["runs/a", 1, OUTPUT]) == b"before during away"
