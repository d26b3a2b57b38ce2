"""Runs over gRPC: read, listed, watched, cancelled, repeated."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from towline.v1 import docker_pb2, queues_pb2, runs_pb2
from towline_testing.errors import refusal
from towline_testing.fake_agent import FakeAgent, cancelled, failed
from towline_testing.lease_world import JOB, LeaseWorld, lease_world, policy
from towline_testing.queue import QueueService, new_id
from towline_testing.waiting import eventually_async

NOT_FOUND = (grpc.StatusCode.NOT_FOUND, "RUN_NOT_FOUND")
INVALID = (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")


@pytest.fixture
async def world(database_url: str, tmp_path: Path) -> AsyncIterator[LeaseWorld]:
    async with lease_world(database_url, tmp_path) as world:
        yield world


async def watch(service: QueueService, run: str) -> AsyncIterator[runs_pb2.Run]:
    async for response in service.runs.WatchRun(runs_pb2.WatchRunRequest(name=run)):
        yield response.run


async def listed(service: QueueService, size: int = 0, **wanted: object) -> list[str]:
    """List all pages and return display names, newest first."""
    request = runs_pb2.ListRunsRequest(filter=runs_pb2.RunFilter(**wanted), page_size=size)
    names: list[str] = []
    while True:
        page = await service.runs.ListRuns(request)
        names += [run.display_name for run in page.runs]
        if not page.next_page_token:
            return names
        request.page_token = page.next_page_token


async def retry(service: QueueService, run: str) -> runs_pb2.Run:
    return (await service.runs.RetryRun(runs_pb2.RetryRunRequest(request_id=new_id(), name=run))).run


async def test_what_is_not_there_or_no_name_is_refused(world: LeaseWorld) -> None:
    runs = world.service.runs
    for name, expected in (("runs/none", NOT_FOUND), ("none", INVALID), ("", INVALID)):
        assert await refusal(runs.GetRun(runs_pb2.GetRunRequest(name=name))) == expected
        assert await refusal(anext(watch(world.service, name))) == expected
        cancel = runs_pb2.CancelRunRequest(request_id=new_id(), name=name)
        assert await refusal(runs.CancelRun(cancel)) == expected
        again = runs_pb2.RetryRunRequest(request_id=new_id(), name=name)
        assert await refusal(runs.RetryRun(again)) == expected


async def test_runs_are_listed_by_what_is_asked_for(world: LeaseWorld) -> None:
    service = world.service
    await service.create_queue("queues/other")
    await service.submit(JOB, display_name="a", author="ann", labels={"k": "1", "x": "y"})
    await service.submit(JOB, display_name="b", author="bob", labels={"k": "1"})
    await service.submit(JOB, display_name="c", queue="queues/other", author="ann")
    cancelled_run = await service.submit(JOB, display_name="d", author="a_n")
    await world.cancel(cancelled_run.name)

    assert await listed(service) == ["d", "c", "b", "a"]
    assert await listed(service, size=1) == ["d", "c", "b", "a"]
    assert await listed(service, size=3) == ["d", "c", "b", "a"]
    assert await listed(service, queue="queues/other") == ["c"]
    assert await listed(service, author="ann") == ["c", "a"]
    assert await listed(service, labels={"k": "1"}) == ["b", "a"]
    assert await listed(service, labels={"k": "1", "x": "y"}) == ["a"]
    assert await listed(service, states=[runs_pb2.RUN_STATE_CANCELLED]) == ["d"]
    both = [runs_pb2.RUN_STATE_QUEUED, runs_pb2.RUN_STATE_CANCELLED]
    assert await listed(service, states=both, author="ann", size=1) == ["c", "a"]
    assert await listed(service, job="jobs/work", size=2) == ["d", "c", "b", "a"]
    assert await listed(service, job=JOB) == ["d", "c", "b", "a"]
    assert await listed(service, job="jobs/wor_") == []
    assert await listed(service, job="jobs/work/versions/v1") == []


async def test_a_wrong_list_is_refused(world: LeaseWorld) -> None:
    await world.submit_many(2)
    page = await world.service.runs.ListRuns(runs_pb2.ListRunsRequest(page_size=1))
    other = runs_pb2.RunFilter(author="ann")
    for request in (
        runs_pb2.ListRunsRequest(page_size=1, page_token=page.next_page_token, filter=other),
        runs_pb2.ListRunsRequest(page_token="x"),
        runs_pb2.ListRunsRequest(page_size=-1),
        runs_pb2.ListRunsRequest(filter=runs_pb2.RunFilter(queue="x")),
        runs_pb2.ListRunsRequest(filter=runs_pb2.RunFilter(job="x")),
        runs_pb2.ListRunsRequest(filter=runs_pb2.RunFilter(states=[77])),
        runs_pb2.ListRunsRequest(filter=runs_pb2.RunFilter(author="\0")),
    ):
        assert await refusal(world.service.runs.ListRuns(request)) == INVALID


async def test_a_page_of_large_runs_stays_small_enough_to_send(world: LeaseWorld) -> None:
    await world.sql("UPDATE queue.queues SET paused = true")
    large = json.dumps({"text": "x" * 900_000})
    names = await world.submit_many(30)
    # A run's parameters may be a megabyte; the job here takes none, so they are put in afterwards.
    own = runs_pb2.LaunchSpec(config_json=large)
    await world.sql("UPDATE queue.runs SET own_spec = $1", own.SerializeToString())
    assert len(await listed(world.service, size=1000)) == len(names)


async def test_a_watch_shows_the_present_and_then_each_change_until_the_end(world: LeaseWorld) -> None:
    agent = FakeAgent()
    run = await world.submit()
    call = watch(world.service, run)
    assert (await anext(call)).state_detail == "no agent serves this queue"
    async with agent.connected(world.service.channel) as session:
        await session.beat()
        grant = await session.next_accepted()
        await session.event(grant, 1, runs_pb2.RUN_STATE_RUNNING, detail="running")
        await session.finish(grant)
    seen = [run async for run in call]
    assert seen[-1].state == runs_pb2.RUN_STATE_SUCCEEDED
    assert seen[-1].HasField("end_time")
    assert seen[-1].queue_position == -1
    states = [run.state for run in seen]
    assert states == sorted(states)
    assert [run.state async for run in watch(world.service, run)] == [runs_pb2.RUN_STATE_SUCCEEDED]


async def test_a_follower_that_reads_nothing_holds_nobody_up(world: LeaseWorld) -> None:
    agent = FakeAgent()
    run = await world.submit()
    idle = watch(world.service, run)
    await anext(idle)
    async with agent.connected(world.service.channel) as session:
        await session.beat()
        grant = await session.next_accepted()
        call = watch(world.service, run)
        for number in range(50):
            await session.event(grant, number + 1, runs_pb2.RUN_STATE_RUNNING, detail=f"step {number}")
        await session.finish(grant)
        assert [run async for run in call][-1].state == runs_pb2.RUN_STATE_SUCCEEDED
    assert [run async for run in idle][-1].state == runs_pb2.RUN_STATE_SUCCEEDED


async def test_a_replica_sees_what_another_one_did(world: LeaseWorld) -> None:
    async with world.another() as replica:
        run = await world.submit()
        call = watch(replica, run)
        assert (await anext(call)).state == runs_pb2.RUN_STATE_QUEUED
        await world.cancel(run)
        assert (await anext(call)).state == runs_pb2.RUN_STATE_CANCELLED


async def test_a_watch_tells_the_place_in_the_queue(world: LeaseWorld) -> None:
    first, second = await world.submit_many(2)
    call = watch(world.service, second)
    seen = await anext(call)
    assert seen.queue_position == 1
    assert seen.state_detail == "no agent serves this queue; 1 run ahead"
    await world.cancel(first)
    assert (await anext(call)).queue_position == 0


async def test_why_a_run_waits_follows_the_agents(world: LeaseWorld) -> None:
    agent = FakeAgent(slots=1, gpus=("GPU-1", "GPU-2"))
    async with agent.connected(world.service.channel) as session:
        await session.beat()
        await world.submit()
        grant = await session.next_accepted()
        waiting = await world.submit()
        large = await world.submit(gpus=4)
        assert (await world.get(waiting)).state_detail == "the only agent that could take it is busy"
        assert (await world.get(large)).state_detail == (
            "needs 4 GPUs, but the largest agent has 2; 1 run ahead"
        )
        await session.finish(grant)
    late = await world.service.submit(JOB, priority=runs_pb2.PRIORITY_CRITICAL)
    assert late.state_detail == "the only agent of this queue is not connected"


async def test_a_waiting_run_is_cancelled_at_once(world: LeaseWorld) -> None:
    run = await world.submit()
    request = runs_pb2.CancelRunRequest(request_id=new_id(), name=run)
    done = (await world.service.runs.CancelRun(request)).run
    assert done.state == runs_pb2.RUN_STATE_CANCELLED
    assert done.failure.cause == runs_pb2.FAILURE_CAUSE_CANCELLED
    assert done.HasField("end_time")
    assert done.queue_position == -1
    assert (await world.service.runs.CancelRun(request)).run == done
    assert (await world.cancel(run)).state == runs_pb2.RUN_STATE_CANCELLED
    assert await world.sql("SELECT FROM queue.ready") == []


async def test_an_active_run_is_cancelled_when_its_container_has_ended(world: LeaseWorld) -> None:
    agent = FakeAgent()
    async with agent.connected(world.service.channel) as session:
        await session.beat()
        run = await world.submit()
        grant = await session.next_accepted()
        await session.event(grant, 1, runs_pb2.RUN_STATE_RUNNING)
        await world.reaches(run, runs_pb2.RUN_STATE_RUNNING)
        asked = await world.cancel(run)
        assert asked.cancel_requested
        assert asked.state == runs_pb2.RUN_STATE_RUNNING
        await session.until(lambda: session.cancels)
        await session.finish(grant, cancelled())
        ended = await world.get(run)
        assert ended.state == runs_pb2.RUN_STATE_CANCELLED
        again = await world.cancel(run)
        assert again == ended


async def test_a_cancel_that_races_the_dispatcher_is_never_lost(world: LeaseWorld) -> None:
    agent = FakeAgent(slots=200)
    async with agent.connected(world.service.channel) as session:
        await session.beat(free_slots=0)
        runs = await world.submit_many(60)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(session.beat(free_slots=200))
            for run in runs:
                tasks.create_task(world.cancel(run))
        states = [(await world.get(run)) for run in runs]
        for run in states:
            waiting = run.state == runs_pb2.RUN_STATE_CANCELLED
            assert waiting or (run.cancel_requested and run.state in (3, 4, 5, 6)), run
        held = {run.name for run in states if run.state != runs_pb2.RUN_STATE_CANCELLED}
        rows = await world.sql("SELECT run FROM queue.leases")
        assert {row["run"] for row in rows} == held
        assert await world.sql("SELECT FROM queue.ready") == []


async def test_a_silent_agents_run_shows_unreachable(database_url: str, tmp_path: Path) -> None:
    times = policy(disconnected_s=0.3, lost_s=60)
    async with lease_world(database_url, tmp_path, policy=times) as world:
        agent = FakeAgent()
        async with agent.connected(world.service.channel) as session:
            await session.beat()
            run = await world.submit()
            await session.next_accepted()

            async def silent() -> bool:
                return (await world.get(run)).unreachable

            async def heard() -> bool:
                await session.beat()
                return not (await world.get(run)).unreachable

            assert await eventually_async(silent)
            assert await eventually_async(heard)
            await session.drop()


async def test_a_run_that_has_ended_is_repeated_with_the_same_content(world: LeaseWorld) -> None:
    service = world.service
    spec = queues_pb2.QueueSpec(
        docker=docker_pb2.DockerTemplate(
            memory="{{memory}}", environment={"ID": "${run_id}", "WHO": "${author}", "I": "${image}"}
        ),
        variables=[queues_pb2.TemplateVariable(name="memory")],
    )
    await service.create_queue("queues/special", spec)
    fields = {
        "queue": "queues/special",
        "variables": {"memory": '"2GiB"'},
        "author": "ann",
        "labels": {"a": "b"},
        "priority": runs_pb2.PRIORITY_LOW,
        "display_name": "name",
    }
    first = await service.submit(JOB, **fields)
    early = runs_pb2.RetryRunRequest(request_id=new_id(), name=first.name)
    error = await refusal(service.runs.RetryRun(early))
    assert error == (grpc.StatusCode.FAILED_PRECONDITION, "RUN_NOT_ENDED")
    assert error.metadata["state"] == "QUEUED"

    await world.cancel(first.name)
    # What the administrator changes later does not change what is repeated.
    update = queues_pb2.UpdateQueueRequest(request_id=new_id(), name="queues/special")
    await service.queues.UpdateQueue(update)
    second = await retry(service, first.name)
    assert second.retry_of == first.name
    assert second.name != first.name
    assert second.state == runs_pb2.RUN_STATE_QUEUED
    for field in ("queue", "variables", "author", "labels", "priority", "display_name", "config_json"):
        assert getattr(second, field) == getattr(first, field), field

    agent = FakeAgent(queues=("queues/special",))
    async with agent.connected(service.channel) as session:
        await session.beat()
        grant = await session.next_accepted()
        options = grant.spec.docker
        assert grant.spec.run == second.name
        assert options.memory_bytes == 2 * 1024**3
        assert options.environment == {
            "ID": second.name.removeprefix("runs/"),
            "WHO": "ann",
            "I": "${image}",
        }
        await session.finish(grant, failed())
    third = await retry(service, second.name)
    assert third.retry_of == second.name


async def test_a_repeated_retry_is_one_run(world: LeaseWorld) -> None:
    run = await world.submit()
    await world.cancel(run)
    request = runs_pb2.RetryRunRequest(request_id=new_id(), name=run)
    first = await world.service.runs.RetryRun(request)
    assert await world.service.runs.RetryRun(request) == first
    assert len(await listed(world.service)) == 2
    await world.cancel(first.run.name)
    await world.service.queues.DeleteQueue(
        queues_pb2.DeleteQueueRequest(request_id=new_id(), name="queues/default")
    )
    gone = runs_pb2.RetryRunRequest(request_id=new_id(), name=run)
    assert (await refusal(world.service.runs.RetryRun(gone))).reason == "QUEUE_NOT_FOUND"


async def test_attempts_and_failures_are_told(world: LeaseWorld) -> None:
    agent = FakeAgent(gpus=("GPU-1",))
    async with agent.connected(world.service.channel) as session:
        await session.beat()
        run = await world.submit(gpus=1)
        grant = await session.next_accepted()
        await session.event(
            grant,
            1,
            runs_pb2.RUN_STATE_RUNNING,
            image_outcome=runs_pb2.IMAGE_OUTCOME_REUSED,
            image_id="sha256:" + "0" * 64,
        )
        await session.finish(grant, failed(exit_code=3))
    ended = await world.get(run)
    assert ended.state == runs_pb2.RUN_STATE_FAILED
    assert ended.failure.cause == runs_pb2.FAILURE_CAUSE_USER_ERROR
    (attempt,) = ended.attempts
    assert attempt.agent == "agents/one"
    assert attempt.gpu_ids == ["GPU-1"]
    assert attempt.exit_code == 3
    assert attempt.outcome == runs_pb2.ATTEMPT_OUTCOME_FAILED
    assert attempt.image_outcome == runs_pb2.IMAGE_OUTCOME_REUSED
    listed_run = (await world.service.runs.ListRuns(runs_pb2.ListRunsRequest())).runs[0]
    assert listed_run == ended
