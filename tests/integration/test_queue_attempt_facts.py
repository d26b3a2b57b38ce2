"""The facts of an attempt: when its image was there and how it came about, when its program printed first."""

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from google.protobuf.duration_pb2 import Duration
from sqlalchemy import text

from towline.service.postgres import connecting, transaction
from towline.v1 import leases_pb2, logs_pb2, runs_pb2
from towline_testing.fake_agent import FakeAgent
from towline_testing.lease_world import LeaseWorld, lease_world

PREPARING, RUNNING = runs_pb2.RUN_STATE_PREPARING, runs_pb2.RUN_STATE_RUNNING
IMAGE = runs_pb2.AttemptImage(
    size_bytes=5, steps=[runs_pb2.ImageStep(name="install packages", duration=Duration(seconds=2), pieces=12)]
)
IMAGE.duration.FromTimedelta(timedelta(seconds=3))


@pytest.fixture
async def world(database_url: str, tmp_path: Path) -> AsyncIterator[LeaseWorld]:
    async with lease_world(database_url, tmp_path) as world:
        yield world


async def _append(
    world: LeaseWorld, grant: leases_pb2.Grant, offset: int, data: bytes, stream: logs_pb2.LogStream.ValueType
) -> None:
    request = logs_pb2.AppendLogsRequest(
        run=grant.spec.run, epoch=grant.epoch, stream=stream, offset=offset, data=data
    )
    assert [answer async for answer in world.service.logs.AppendLogs(iter([request]))]


async def test_facts_of_an_attempt_are_there_while_it_goes_on_and_afterwards(world: LeaseWorld) -> None:
    agent = FakeAgent(slots=1)
    async with agent.connected(world.service.channel) as session:
        await session.beat()
        name = await world.submit()
        grant = await session.next_accepted()
        await session.event(grant, 1, PREPARING, detail="getting the image")
        run = await world.reaches(name, PREPARING)
        assert not run.attempts[0].HasField("image")
        assert not run.attempts[0].times.HasField("image_time")

        built = runs_pb2.IMAGE_OUTCOME_BUILT
        await session.event(grant, 2, RUNNING, image_outcome=built, image_id="sha256:1", image=IMAGE)
        run = await world.reaches(name, RUNNING)
        there = run.attempts[0].times.image_time
        assert run.attempts[0].image == IMAGE and there.ToDatetime() >= run.create_time.ToDatetime()

        await _append(world, grant, 0, b"resolving", logs_pb2.LOG_STREAM_BUILD)
        await _append(world, grant, 0, b"", logs_pb2.LOG_STREAM_OUTPUT)
        assert not (await world.get(name)).attempts[0].times.HasField("first_output_time")
        await _append(world, grant, 0, b"first", logs_pb2.LOG_STREAM_OUTPUT)
        first = (await world.get(name)).attempts[0].times.first_output_time
        assert first.ToDatetime() > there.ToDatetime()
        await _append(world, grant, 5, b"second", logs_pb2.LOG_STREAM_OUTPUT)

        # Later events say it again, and a restarted agent says nothing of it.
        await session.event(grant, 3, runs_pb2.RUN_STATE_STOPPING, image_outcome=built, image=IMAGE)
        await session.event(grant, 4, runs_pb2.RUN_STATE_STOPPING)
        await session.finish(grant)
    ended = (await world.get(name)).attempts[0]
    assert ended.image == IMAGE and ended.image_id == "sha256:1"
    assert (ended.times.image_time, ended.times.first_output_time) == (there, first)
    listed = await world.service.runs.ListRuns(runs_pb2.ListRunsRequest())
    assert list(listed.runs[0].attempts) == [ended]


async def test_when_a_program_printed_first_is_not_guessed(world: LeaseWorld) -> None:
    """A replica of the version before has stored the first bytes, and says nothing of when that was."""
    async with FakeAgent(slots=1).connected(world.service.channel) as session:
        await session.beat()
        name = await world.submit()
        grant = await session.next_accepted()
        await _append(world, grant, 0, b"first", logs_pb2.LOG_STREAM_OUTPUT)
        async with connecting(world.database_url) as engine, transaction(engine) as connection:
            await connection.execute(text("UPDATE queue.log_streams SET first_time = NULL"))
        await _append(world, grant, 5, b"second", logs_pb2.LOG_STREAM_OUTPUT)
        assert not (await world.get(name)).attempts[0].times.HasField("first_output_time")


async def test_an_image_that_could_not_be_had_tells_what_was_done(world: LeaseWorld) -> None:
    agent = FakeAgent(slots=1)
    async with agent.connected(world.service.channel) as session:
        await session.beat()
        name = await world.submit()
        grant = await session.next_accepted()
        await session.event(grant, 1, PREPARING, detail="there is no image", image=IMAGE)
        failure = runs_pb2.Failure(cause=runs_pb2.FAILURE_CAUSE_IMAGE_BUILD, message="no such package")
        outcome = runs_pb2.ATTEMPT_OUTCOME_FAILED
        await session.finish(grant, leases_pb2.AttemptResult(outcome=outcome, failure=failure))
    attempt = (await world.get(name)).attempts[0]
    assert attempt.image == IMAGE and not attempt.image_outcome
    assert not attempt.times.HasField("image_time")
