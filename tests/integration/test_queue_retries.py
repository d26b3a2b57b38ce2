"""Retries, limits and preemption as people see them: over gRPC, with a scripted agent."""

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import grpc
import pytest

from towline.v1 import fleet_pb2, leases_pb2, queues_pb2, runs_pb2
from towline_testing.errors import refusal
from towline_testing.fake_agent import FakeAgent, failed
from towline_testing.lease_world import JOB, LeaseWorld, lease_world, queue_spec
from towline_testing.queue import new_id

INVALID = (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
OOM = runs_pb2.FAILURE_CAUSE_OOM
PREEMPTED = runs_pb2.FAILURE_CAUSE_PREEMPTED


@pytest.fixture
async def world(database_url: str, tmp_path: Path) -> AsyncIterator[LeaseWorld]:
    async with lease_world(database_url, tmp_path) as world:
        yield world


def limits(**seconds: float) -> runs_pb2.TimeLimits:
    made = runs_pb2.TimeLimits()
    for name, value in seconds.items():
        getattr(made, name).FromTimedelta(timedelta(seconds=value))
    return made


def retries(most: int, first_s: float = 60) -> runs_pb2.RetryPolicy:
    policy = runs_pb2.RetryPolicy(budgets=[runs_pb2.RetryBudget(cause=OOM, max_retries=most)])
    policy.first_backoff.FromTimedelta(timedelta(seconds=first_s))
    return policy


async def preempt(world: LeaseWorld, run: str, request_id: str = "") -> runs_pb2.Run:
    request = runs_pb2.PreemptRunRequest(request_id=request_id or new_id(), name=run)
    return (await world.service.runs.PreemptRun(request)).run


async def drain(world: LeaseWorld, name: str, deadline_s: float | None) -> fleet_pb2.Agent:
    request = fleet_pb2.DrainAgentRequest(request_id=new_id(), name=name)
    if deadline_s is not None:
        request.deadline.FromTimedelta(timedelta(seconds=deadline_s))
    return (await world.service.fleet.DrainAgent(request)).agent


async def make_queue(world: LeaseWorld, **fields: object) -> str:
    spec = queue_spec()
    spec.MergeFrom(queues_pb2.QueueSpec(**fields))
    return (await world.service.create_queue("queues/strict", spec)).name


async def test_a_run_has_its_queues_limits_retries_and_stop_signal(world: LeaseWorld):
    queue = await make_queue(
        world,
        limits=limits(max_wait=60, max_runtime=600),
        retry_policy=retries(2),
        lease_policy=queues_pb2.LeasePolicy(stop_signal="SIGUSR1"),
    )
    run = await world.service.submit(JOB, queue, limits=limits(max_runtime=30))
    assert run == await world.get(run.name)
    assert run.limits == limits(max_wait=60, max_runtime=30)
    most = {budget.cause: budget.max_retries for budget in run.retry_policy.budgets}
    assert (len(most), most[OOM], most[PREEMPTED]) == (9, 2, 1000)
    assert "waits until 20" in run.state_detail
    async with FakeAgent(queues=(queue,)).connected(world.service.channel) as session:
        await session.beat()
        spec = (await session.next_grant()).spec
    assert (spec.limits, spec.retry_policy, spec.stop_signal) == (run.limits, run.retry_policy, "SIGUSR1")


async def test_what_a_queue_does_not_allow_is_refused_with_the_field(world: LeaseWorld):
    queue = await make_queue(world, limits=limits(max_wait=60))
    runs = world.service.runs
    submission = runs_pb2.RunSubmission(job=JOB, queue=queue, limits=limits(max_wait=61))
    request = runs_pb2.SubmitRunRequest(request_id=new_id(), run=submission)
    refused = await refusal(runs.SubmitRun(request))
    assert refused == INVALID
    assert refused.metadata["field"] == "run.limits.max_wait"
    many = runs_pb2.SubmitRunsRequest(
        request_id=new_id(),
        runs=[
            runs_pb2.RunSubmission(job=JOB, queue=queue),
            runs_pb2.RunSubmission(job=JOB, queue=queue, retry_policy=retries(-1)),
        ],
    )
    refused = await refusal(runs.SubmitRuns(many))
    assert refused == INVALID
    assert refused.metadata["field"] == "runs[1].retry_policy.budgets[0].max_retries"


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"limits": limits(max_wait=0)}, "spec.limits.max_wait"),
        ({"retry_policy": retries(1001)}, "spec.retry_policy.budgets[0].max_retries"),
        ({"lease_policy": queues_pb2.LeasePolicy(stop_signal="KILL")}, "spec.lease_policy.stop_signal"),
    ],
)
async def test_a_queue_is_checked_when_made_and_when_changed(
    world: LeaseWorld, wrong: dict[str, object], field: str
):
    spec = queues_pb2.QueueSpec(**wrong)
    create = queues_pb2.CreateQueueRequest(request_id=new_id(), name="queues/new", spec=spec)
    update = queues_pb2.UpdateQueueRequest(request_id=new_id(), name="queues/default", spec=spec)
    for call in (world.service.queues.CreateQueue(create), world.service.queues.UpdateQueue(update)):
        refused = await refusal(call)
        assert refused == INVALID
        assert refused.metadata["field"] == field


async def test_a_retried_run_says_why_and_until_when_it_waits(world: LeaseWorld):
    async with FakeAgent().connected(world.service.channel) as session:
        await session.beat()
        run = await world.submit(retry_policy=retries(1))
        grant = await session.next_accepted()
        result = failed(OOM)
        result.outputs = "artifacts/out/versions/v0"
        assert await session.finish(grant, result) == leases_pb2.FINISH_VERDICT_OK
    found = await world.get(run)
    assert found.state == runs_pb2.RUN_STATE_SCHEDULED
    assert found.state_detail.startswith(
        "Tried again (retry 1 of 1 after OOM): It failed; scheduled until 20"
    )
    wait = found.due_time.ToDatetime() - found.attempts[0].times.end_time.ToDatetime()
    assert timedelta(seconds=45) <= wait <= timedelta(seconds=60)
    assert not found.HasField("failure")
    assert not found.HasField("end_time")
    assert (found.outputs, found.attempts[0].outputs) == ("", "artifacts/out/versions/v0")
    assert found.attempts[0].failure.cause == OOM


async def test_a_run_is_tried_again_until_it_succeeds(world: LeaseWorld):
    async with FakeAgent().connected(world.service.channel, beating=True) as session:
        run = await world.submit(retry_policy=retries(2, first_s=0.1))
        grant = await session.next_accepted()
        await session.finish(grant, failed(OOM))
        again = await session.next_accepted()
        assert (again.spec.run, again.epoch, again.attempt) == (run, 2, 2)
        waiting = await world.get(run)
        assert not waiting.HasField("due_time")
        await session.finish(again)
    ended = await world.get(run)
    assert ended.state == runs_pb2.RUN_STATE_SUCCEEDED
    assert not ended.HasField("failure")
    assert [attempt.failure.cause for attempt in ended.attempts] == [OOM, 0]


async def test_repeating_a_run_keeps_its_own_limits_and_retries(world: LeaseWorld):
    queue = await make_queue(world, limits=limits(max_runtime=600))
    first = await world.service.submit(JOB, queue, limits=limits(max_runtime=30), retry_policy=retries(7))
    await world.cancel(first.name)
    spec = queue_spec()
    spec.MergeFrom(queues_pb2.QueueSpec(limits=limits(max_runtime=10)))
    update = queues_pb2.UpdateQueueRequest(request_id=new_id(), name=queue, spec=spec)
    await world.service.queues.UpdateQueue(update)
    request = runs_pb2.RetryRunRequest(request_id=new_id(), name=first.name)
    again = (await world.service.runs.RetryRun(request)).run
    assert (again.limits, again.retry_policy) == (first.limits, first.retry_policy)


async def test_a_preempted_run_keeps_its_place_and_goes_on(world: LeaseWorld):
    async with FakeAgent().connected(world.service.channel) as session:
        await session.beat()
        run = await world.submit()
        grant = await session.next_accepted()
        await world.submit()
        assert (await preempt(world, run)).preempt_requested
        await session.until(lambda: session.cancels)
        (cancel,) = session.cancels
        assert (cancel.lease_id, cancel.reason) == (grant.lease_id, leases_pb2.STOP_REASON_PREEMPTED)
        await session.finish(grant, failed(PREEMPTED))
        waiting = await world.get(run)
        assert (waiting.state, waiting.queue_position) == (runs_pb2.RUN_STATE_QUEUED, 0)
        assert not waiting.preempt_requested
        await session.beat()
        again = await session.next_accepted()
        assert again.spec.run == run
        assert await session.finish(again) == leases_pb2.FINISH_VERDICT_OK


async def test_a_preemption_is_idempotent_and_for_active_runs_only(world: LeaseWorld):
    async with FakeAgent().connected(world.service.channel) as session:
        await session.beat()
        run = await world.submit()
        request = runs_pb2.PreemptRunRequest(request_id=new_id(), name=run)
        grant = await session.next_accepted()
        await session.beat()
        first = await preempt(world, run, request.request_id)
        await session.finish(grant, failed(PREEMPTED))
        assert await preempt(world, run, request.request_id) == first
        for _ in range(2):
            request.request_id = new_id()
            refused = await refusal(world.service.runs.PreemptRun(request))
            assert refused == (grpc.StatusCode.FAILED_PRECONDITION, "RUN_NOT_ACTIVE")
        request.name = "runs/none"
        refused = await refusal(world.service.runs.PreemptRun(request))
        assert refused == (grpc.StatusCode.NOT_FOUND, "RUN_NOT_FOUND")


async def test_a_drain_deadline_is_shown_and_preempts_what_is_left(world: LeaseWorld):
    async with FakeAgent().connected(world.service.channel) as session:
        await session.beat()
        run = await world.submit()
        grant = await session.next_accepted()
        await session.beat()
        agent = await drain(world, session.agent.name, 3600)
        assert agent.HasField("drain_deadline")
        assert not (await drain(world, session.agent.name, None)).HasField("drain_deadline")
        assert not (await world.get(run)).preempt_requested
        await drain(world, session.agent.name, 0)
        await session.until(lambda: session.cancels)
        assert session.cancels[0].lease_id == grant.lease_id
        assert session.cancels[0].reason == leases_pb2.STOP_REASON_PREEMPTED
        await session.finish(grant, failed(PREEMPTED))
        await world.reaches(run, runs_pb2.RUN_STATE_QUEUED)


async def test_a_drain_deadline_in_the_past_is_refused(world: LeaseWorld):
    async with FakeAgent().connected(world.service.channel) as session:
        refused = await refusal(drain(world, session.agent.name, -1))
        assert refused == INVALID
        assert refused.metadata["field"] == "deadline"


async def test_a_run_that_no_agent_takes_in_time_fails(world: LeaseWorld):
    run = await world.submit(limits=limits(max_wait=0.2))
    ended = await world.reaches(run, runs_pb2.RUN_STATE_FAILED)
    assert ended.failure.cause == runs_pb2.FAILURE_CAUSE_TIMEOUT
    assert ended.attempts == []
