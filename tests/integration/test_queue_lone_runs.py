"""A run submitted alone: handed out by the statement that stores it, where it may go to an agent at once."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import asyncpg
import pytest

from towline.v1 import queues_pb2, runs_pb2
from towline_testing.fake_agent import FakeAgent, FakeSession
from towline_testing.lease_world import JOB, LeaseWorld, lease_world
from towline_testing.queue import new_id
from towline_testing.waiting import eventually_async

QUEUED, LEASED = runs_pb2.RUN_STATE_QUEUED, runs_pb2.RUN_STATE_LEASED
QUEUE = "queues/default"


@pytest.fixture
async def world(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[LeaseWorld]:
    # What arrives was pushed: nothing is found by looking once in a while.
    monkeypatch.setattr("towline_queue.dispatcher.POLL", timedelta(hours=1))
    async with lease_world(database_url, tmp_path) as world:
        yield world


@asynccontextmanager
async def idle(world: LeaseWorld, *, wanted: int = 0, **agent: object) -> AsyncIterator[FakeSession]:
    """Give an agent that has done a run of the kind that follows, with so many GPUs, and has room again."""
    async with FakeAgent(**agent).connected(world.service.channel) as session:
        await session.beat()
        await world.submit(gpus=wanted)
        await session.finish(await session.next_accepted())
        await session.beat()
        yield session


async def leases(world: LeaseWorld) -> dict[str, int]:
    return {row["run"]: row["epoch"] for row in await world.sql("SELECT run, epoch FROM queue.leases")}


@pytest.mark.parametrize("wanted", [0, 1])
async def test_it_goes_to_an_idle_agent_in_the_transaction_that_stores_it(
    world: LeaseWorld, wanted: int
) -> None:
    async with idle(world, wanted=wanted, slots=2, gpus=("GPU-a", "GPU-b")) as session:
        run = await world.submit(gpus=wanted)
        grant = await session.next_grant()
        assert len(grant.gpu_ids) == wanted
        assert grant.spec.run == run
        assert (grant.epoch, grant.spec.job_version, grant.spec.queue) == (1, JOB, QUEUE)
        assert await leases(world) == {run: 1}
        assert await world.sql(
            "SELECT FROM queue.leases JOIN queue.runs ON runs.name = leases.run WHERE runs.xmin = leases.xmin"
        )
        await session.accept(grant)
        await session.finish(grant)
        assert (await world.get(run)).state == runs_pb2.RUN_STATE_SUCCEEDED


async def test_a_gpu_that_a_lease_holds_is_not_given_whatever_the_agent_says(world: LeaseWorld) -> None:
    gpus = ("GPU-a", "GPU-b")
    async with idle(world, wanted=1, slots=8, gpus=gpus) as session:
        given = []
        for _ in gpus:
            await world.submit(gpus=1)
            given += (await session.next_accepted()).gpu_ids
            await session.beat(free_slots=8, free_gpu_ids=gpus)
        assert sorted(given) == sorted(gpus)
        third = await world.submit(gpus=1)
        assert (await world.get(third)).state == QUEUED
        assert len(await leases(world)) == 2


async def test_of_two_at_once_the_other_waits_for_the_only_slot(world: LeaseWorld) -> None:
    async with idle(world) as session:
        async with asyncio.TaskGroup() as group:
            submitted = [group.create_task(world.submit()) for _ in range(2)]
        grant = await session.next_accepted()
        names = {task.result() for task in submitted}
        assert set(await leases(world)) == {grant.spec.run}
        await session.finish(grant)
        await session.beat()
        assert {grant.spec.run, (await session.next_grant()).spec.run} == names


async def test_it_passes_none_that_waits_of_which_this_process_was_not_told(world: LeaseWorld) -> None:
    async with idle(world) as session:
        # As if another replica had stored it, and what it told was lost.
        await world.sql(
            "WITH made AS ("
            " INSERT INTO queue.runs (name, queue, priority, shape, job_version, launch_spec, own_spec)"
            " SELECT 'runs/earlier', queue, priority, shape, job_version, launch_spec, own_spec"
            " FROM queue.runs RETURNING *)"
            " INSERT INTO queue.ready (queue, shape, priority, seq, first_run, epoch, number)"
            " SELECT queue, shape, priority, seq, name, 2, 2 FROM made"
        )
        later = await world.submit()
        assert (await session.next_grant()).epoch == 2
        assert list(await leases(world)) == ["runs/earlier"]
        assert (await world.get(later)).state == QUEUED


async def test_a_paused_queue_keeps_it(world: LeaseWorld) -> None:
    queue = world.service.queues
    async with idle(world) as session:
        await queue.PauseQueue(queues_pb2.PauseQueueRequest(request_id=new_id(), name=QUEUE))
        run = await world.submit()
        assert (await world.get(run)).state == QUEUED
        await queue.ResumeQueue(queues_pb2.ResumeQueueRequest(request_id=new_id(), name=QUEUE))
        assert (await session.next_grant()).spec.run == run


@pytest.mark.parametrize(
    "why", ["draining", "session = gen_random_uuid()", "silent"], ids=["drained", "superseded", "silent"]
)
async def test_an_agent_that_may_take_none_gets_none(world: LeaseWorld, why: str) -> None:
    async with idle(world) as session:
        # In the database alone: this process knows nothing of it yet.
        if why == "silent":
            await world.sql("UPDATE queue.sessions SET seen_time = seen_time - interval '1 day'")
        else:
            await world.sql(f"UPDATE queue.agents SET {why.replace('draining', 'draining = true')}")
        run = await world.submit()
        assert (await world.get(run)).state == QUEUED
        assert await leases(world) == {}
        assert run not in {grant.spec.run for grant in session.grants}


async def test_a_repetition_is_answered_with_the_run_that_was_handed_out(world: LeaseWorld) -> None:
    request = runs_pb2.SubmitRunRequest(request_id=new_id(), run=runs_pb2.RunSubmission(job=JOB, queue=QUEUE))
    async with idle(world, slots=2) as session:
        answers = [(await world.service.runs.SubmitRun(request)).run.name for _ in range(2)]
        assert answers == [(await session.next_grant()).spec.run] * 2
        assert len(await leases(world)) == 1


async def test_while_its_queue_is_locked_others_are_handed_out(world: LeaseWorld) -> None:
    await world.service.queues.CreateQueue(
        queues_pb2.CreateQueueRequest(request_id=new_id(), name="queues/other", spec=queues_pb2.QueueSpec())
    )
    async with idle(world, slots=2, queues=(QUEUE, "queues/other")) as session:
        connection = await asyncpg.connect(world.database_url)
        try:
            async with asyncio.TaskGroup() as group:
                async with connection.transaction():
                    await connection.execute("SELECT FROM queue.queues WHERE name = $1 FOR UPDATE", QUEUE)
                    blocked = group.create_task(world.submit())
                    await eventually_async(lambda: _waits_for_a_lock(world))
                    other = await world.submit(queue="queues/other")
                    assert (await session.next_accepted()).spec.run == other
                assert (await session.next_accepted()).spec.run == await blocked
        finally:
            await connection.close()


async def _waits_for_a_lock(world: LeaseWorld) -> bool:
    return bool(await world.sql("SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock'"))
