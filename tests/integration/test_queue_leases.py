"""The life of a lease, from grant to result, over the real stream and a real PostgreSQL."""

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import pytest

from towline.v1 import leases_pb2, runs_pb2
from towline_testing.fake_agent import SUCCEEDED, FakeAgent, cancelled, failed
from towline_testing.lease_world import LeaseWorld, lease_world, policy, queue_spec
from towline_testing.queue import new_id

OK = leases_pb2.FINISH_VERDICT_OK
STALE = leases_pb2.FINISH_VERDICT_STALE_EPOCH
DUPLICATE = leases_pb2.FINISH_VERDICT_DUPLICATE


@pytest.fixture
async def world(database_url: str, tmp_path: Path) -> AsyncIterator[LeaseWorld]:
    async with lease_world(database_url, tmp_path) as world:
        yield world


async def test_a_run_goes_from_submit_to_success(world: LeaseWorld):
    agent = FakeAgent()
    async with agent.connected(world.service.channel) as session:
        await session.beat()
        run = await world.submit()
        grant = await session.next_accepted()
        assert (grant.spec.run, grant.attempt, grant.epoch) == (run, 1, 1)
        assert grant.ttl.ToTimedelta() == timedelta(seconds=120)
        await session.event(grant, 1, runs_pb2.RUN_STATE_PREPARING, detail="pulling debian:12")
        preparing = await world.reaches(run, runs_pb2.RUN_STATE_PREPARING)
        assert preparing.state_detail == "pulling debian:12"
        await session.event(
            grant,
            2,
            runs_pb2.RUN_STATE_RUNNING,
            image_outcome=runs_pb2.IMAGE_OUTCOME_PULLED,
            image_id="sha256:" + "0" * 64,
        )
        await world.reaches(run, runs_pb2.RUN_STATE_RUNNING)
        result = leases_pb2.AttemptResult()
        result.CopyFrom(SUCCEEDED)
        result.outputs = "artifacts/out/versions/v0"
        assert await session.finish(grant, result) == OK
        ended = await world.get(run)
        assert ended.state == runs_pb2.RUN_STATE_SUCCEEDED
        assert ended.outputs == "artifacts/out/versions/v0"
        (attempt,) = ended.attempts
        assert attempt.outcome == runs_pb2.ATTEMPT_OUTCOME_SUCCEEDED
        assert attempt.exit_code == 0
        assert attempt.image_outcome == runs_pb2.IMAGE_OUTCOME_PULLED
        times = attempt.times
        moments = [times.lease_time, times.prepare_time, times.start_time, times.end_time]
        assert sorted(moment.ToNanoseconds() for moment in moments) == [
            moment.ToNanoseconds() for moment in moments
        ]
        assert await world.sql("SELECT FROM queue.leases") == []


async def test_a_failure_keeps_its_cause(world: LeaseWorld):
    async with FakeAgent().connected(world.service.channel) as session:
        await session.beat()
        run = await world.submit()
        grant = await session.next_accepted()
        assert await session.finish(grant, failed(runs_pb2.FAILURE_CAUSE_OOM, 137)) == OK
        ended = await world.get(run)
        assert ended.state == runs_pb2.RUN_STATE_FAILED
        assert (ended.failure.cause, ended.attempts[0].exit_code) == (runs_pb2.FAILURE_CAUSE_OOM, 137)


async def test_a_repeated_result_is_a_duplicate_and_another_one_is_stale(world: LeaseWorld):
    async with FakeAgent().connected(world.service.channel) as session:
        await session.beat()
        run = await world.submit()
        grant = await session.next_accepted()
        finish_id = str(uuid4())
        assert await session.finish(grant, finish_id=finish_id) == OK
        assert await session.finish(grant, finish_id=finish_id) == DUPLICATE
        assert await session.finish(grant, failed()) == STALE
        assert (await world.get(run)).state == runs_pb2.RUN_STATE_SUCCEEDED


async def test_two_results_in_one_message_commit_the_first(world: LeaseWorld):
    async with FakeAgent().connected(world.service.channel) as session:
        await session.beat()
        run = await world.submit()
        grant = await session.next_accepted()
        ids = [str(uuid4()) for _ in range(2)]
        finishes = [
            leases_pb2.Finish(lease_id=grant.lease_id, epoch=grant.epoch, finish_id=id_, result=result)
            for id_, result in zip([ids[0], ids[1], ids[0]], [SUCCEEDED, failed(), SUCCEEDED], strict=True)
        ]
        await session.say(finishes=finishes)
        await session.until(lambda: len(session.confirms) == 2)
        # The last word on the first id is that on its repetition.
        assert session.confirms == {ids[0]: DUPLICATE, ids[1]: STALE}
        assert (await world.get(run)).state == runs_pb2.RUN_STATE_SUCCEEDED


async def test_a_result_without_a_session(world: LeaseWorld):
    agent = FakeAgent()
    async with agent.connected(world.service.channel) as session:
        await session.beat()
        run = await world.submit()
        grant = await session.next_accepted()
        await session.drop()
    finish = leases_pb2.Finish(
        lease_id=grant.lease_id, epoch=grant.epoch, finish_id=str(uuid4()), result=SUCCEEDED
    )
    unknown = leases_pb2.Finish(lease_id="no-such-run.7", epoch=7, finish_id=str(uuid4()), result=SUCCEEDED)
    request = leases_pb2.FinishLeasesRequest(finishes=[finish, unknown])
    for verdict in (OK, DUPLICATE):
        answer = await world.service.leases.FinishLeases(request)
        assert [confirm.verdict for confirm in answer.confirms] == [verdict, STALE]
    assert (await world.get(run)).state == runs_pb2.RUN_STATE_SUCCEEDED


async def test_progress_never_goes_back_and_repeats_change_nothing(world: LeaseWorld):
    async with FakeAgent().connected(world.service.channel) as session:
        await session.beat()
        run = await world.submit()
        grant = await session.next_accepted()
        await session.event(grant, 5, runs_pb2.RUN_STATE_RUNNING, detail="runs")
        await world.reaches(run, runs_pb2.RUN_STATE_RUNNING)
        started = (await world.get(run)).attempts[0].times.start_time
        await session.event(grant, 4, runs_pb2.RUN_STATE_PREPARING, detail="late")
        await session.event(grant, 5, runs_pb2.RUN_STATE_RUNNING, detail="again")
        await session.beat()
        found = await world.get(run)
        assert (found.state, found.state_detail) == (runs_pb2.RUN_STATE_RUNNING, "runs")
        assert found.attempts[0].times.start_time == started
        await session.event(grant, 6, runs_pb2.RUN_STATE_STOPPING, detail="keeps outputs")
        assert (await world.reaches(run, runs_pb2.RUN_STATE_STOPPING)).state_detail == "keeps outputs"


async def test_a_release_puts_the_run_back_at_its_place(world: LeaseWorld):
    async with FakeAgent().connected(world.service.channel) as session:
        first = await world.submit()
        second = await world.submit()
        await session.beat()
        grant = await session.next_accepted()
        assert grant.spec.run == first
        await session.event(grant, 1, runs_pb2.RUN_STATE_PREPARING)
        await session.release(grant, "the node is going down")
        waiting = await world.reaches(first, runs_pb2.RUN_STATE_QUEUED)
        assert waiting.attempts[0].outcome == runs_pb2.ATTEMPT_OUTCOME_RELEASED
        assert waiting.queue_position == 0
        await session.beat()
        again = await session.next_accepted()
        assert (again.spec.run, again.epoch, again.attempt) == (first, 2, 1)
        assert (await world.get(second)).state == runs_pb2.RUN_STATE_QUEUED


async def test_a_run_that_has_started_cannot_be_released(world: LeaseWorld):
    async with FakeAgent().connected(world.service.channel) as session:
        await session.beat()
        run = await world.submit()
        grant = await session.next_accepted()
        await session.event(grant, 1, runs_pb2.RUN_STATE_RUNNING)
        release = leases_pb2.Release(lease_id=grant.lease_id, epoch=grant.epoch)
        await session.say(releases=[release])
        await session.beat()
        assert (await world.get(run)).state == runs_pb2.RUN_STATE_RUNNING
        assert await session.finish(grant) == OK


async def test_a_stale_epoch_is_refused_and_the_agent_is_told(world: LeaseWorld):
    async with FakeAgent().connected(world.service.channel) as session:
        await session.beat()
        run = await world.submit()
        old = await session.next_accepted()
        await session.release(old)
        await world.reaches(run, runs_pb2.RUN_STATE_QUEUED)
        await session.beat()
        new = await session.next_accepted()
        await session.event(old, 9, runs_pb2.RUN_STATE_RUNNING)
        assert await session.finish(old, failed()) == STALE
        renewed = await session.beat()
        assert list(renewed.lost_lease_ids) == [old.lease_id]
        assert (await world.get(run)).state == runs_pb2.RUN_STATE_LEASED
        assert await session.finish(new) == OK


async def test_nonsense_lease_ids_never_end_the_stream(world: LeaseWorld):
    async with FakeAgent().connected(world.service.channel) as session:
        await session.beat()
        for lease_id in ("", "x", "runs/a.1", "a.1", "a.99999999999999999999", "a.1\0"):
            nonsense = leases_pb2.Grant(lease_id=lease_id, epoch=1)
            await session.reply(True, nonsense)
            await session.reply(False, nonsense, reason="no")
            await session.event(nonsense, 1, runs_pb2.RUN_STATE_RUNNING)
            assert await session.finish(nonsense) == STALE
            await session.say(releases=[leases_pb2.Release(lease_id=lease_id, epoch=1)])
        assert "x" in (await session.beat()).lost_lease_ids


async def test_what_people_read_may_hold_any_character(world: LeaseWorld):
    async with FakeAgent().connected(world.service.channel) as session:
        await session.beat()
        run = await world.submit()
        grant = await session.next_accepted()
        await session.event(grant, 1, runs_pb2.RUN_STATE_PREPARING, detail="50%\0 ✓ " + "x" * 9000)
        found = await world.reaches(run, runs_pb2.RUN_STATE_PREPARING)
        assert found.state_detail.startswith("50%\N{REPLACEMENT CHARACTER} ✓ xx")


async def test_a_cancel_reaches_the_agent_at_once_and_with_every_heartbeat(world: LeaseWorld):
    async with FakeAgent().connected(world.service.channel) as session:
        await session.beat()
        run = await world.submit()
        grant = await session.next_accepted()
        await session.event(grant, 1, runs_pb2.RUN_STATE_RUNNING)
        await world.reaches(run, runs_pb2.RUN_STATE_RUNNING)
        assert (await world.cancel(run)).cancel_requested
        await session.until(lambda: session.cancels)
        assert session.cancels[0].lease_id == grant.lease_id
        assert session.cancels[0].grace == grant.spec.stop_grace
        await session.beat()
        assert len(session.cancels) == 2
        assert await session.finish(grant, cancelled()) == OK
        ended = await world.get(run)
        assert ended.state == runs_pb2.RUN_STATE_CANCELLED
        assert ended.failure.cause == runs_pb2.FAILURE_CAUSE_CANCELLED
        await session.beat()
        assert len(session.cancels) == 2


async def test_a_cancel_that_comes_too_late_changes_nothing(world: LeaseWorld):
    async with FakeAgent().connected(world.service.channel) as session:
        await session.beat()
        run = await world.submit()
        grant = await session.next_accepted()
        await world.cancel(run)
        assert await session.finish(grant) == OK
        assert (await world.get(run)).state == runs_pb2.RUN_STATE_SUCCEEDED


async def test_a_cancelled_run_that_is_given_back_does_not_wait_again(world: LeaseWorld):
    async with FakeAgent().connected(world.service.channel) as session:
        await session.beat()
        run = await world.submit()
        grant = await session.next_accepted()
        await world.cancel(run)
        await session.release(grant)
        ended = await world.reaches(run, runs_pb2.RUN_STATE_CANCELLED)
        assert ended.HasField("end_time")
        assert ended.attempts[0].outcome == runs_pb2.ATTEMPT_OUTCOME_RELEASED
        assert await world.sql("SELECT FROM queue.ready") == []


PREEMPTED = runs_pb2.FAILURE_CAUSE_PREEMPTED


async def preempt(world: LeaseWorld, run: str) -> runs_pb2.Run:
    request = runs_pb2.PreemptRunRequest(request_id=new_id(), name=run)
    return (await world.service.runs.PreemptRun(request)).run


async def test_leases_of_different_queues_hold_for_different_times_in_one_session(world: LeaseWorld):
    patient = queue_spec(policy(heartbeat_s=5, disconnected_s=60, lost_s=8 * 3600))
    await world.service.create_queue("queues/patient", patient)
    agent = FakeAgent(slots=2, queues=("queues/patient", "queues/default"))
    async with agent.connected(world.service.channel) as session:
        await session.beat()
        ttls = {}
        for queue in agent.queues:
            await world.submit(queue=queue)
            grant = await session.next_accepted()
            ttls[grant.spec.queue] = grant.ttl.ToTimedelta()
        assert ttls == {"queues/patient": timedelta(hours=8), "queues/default": timedelta(seconds=120)}
        assert session.welcome.heartbeat_interval.ToTimedelta() == timedelta(seconds=5)


async def test_a_preempted_run_is_stopped_at_once_and_waits_again(world: LeaseWorld):
    async with FakeAgent().connected(world.service.channel) as session:
        await session.beat()
        run = await world.submit()
        grant = await session.next_accepted()
        await session.event(grant, 1, runs_pb2.RUN_STATE_RUNNING)
        await world.reaches(run, runs_pb2.RUN_STATE_RUNNING)
        await preempt(world, run)
        await session.until(lambda: session.cancels)
        await session.beat()
        assert [(cancel.lease_id, cancel.reason) for cancel in session.cancels] == [
            (grant.lease_id, leases_pb2.STOP_REASON_PREEMPTED)
        ] * 2
        assert session.cancels[0].grace == grant.spec.stop_grace
        assert await session.finish(grant, failed(PREEMPTED, 143)) == OK
        await session.beat()
        again = await session.next_accepted()
        assert (again.spec.run, again.epoch) == (run, 2)
        await session.beat()
        assert len(session.cancels) == 2  # it was for the first attempt only
        assert await session.finish(again) == OK
        assert (await world.get(run)).state == runs_pb2.RUN_STATE_SUCCEEDED


async def test_a_cancel_takes_the_place_of_a_preemption(world: LeaseWorld):
    async with FakeAgent().connected(world.service.channel) as session:
        await session.beat()
        run = await world.submit()
        grant = await session.next_accepted()
        await session.event(grant, 1, runs_pb2.RUN_STATE_RUNNING)
        await session.beat()
        await preempt(world, run)
        await session.until(lambda: session.cancels)
        await world.cancel(run)
        await session.until(lambda: session.cancels[-1].reason == leases_pb2.STOP_REASON_CANCELLED)
        # It had begun to stop for the preemption, and says so.
        assert await session.finish(grant, failed(PREEMPTED, 143)) == OK
        assert (await world.get(run)).state == runs_pb2.RUN_STATE_CANCELLED


async def test_a_run_that_is_tried_again_is_granted_to_who_waits(world: LeaseWorld):
    retry = runs_pb2.RetryPolicy(
        budgets=[runs_pb2.RetryBudget(cause=runs_pb2.FAILURE_CAUSE_USER_ERROR, max_retries=1)]
    )
    retry.first_backoff.FromMilliseconds(50)
    async with FakeAgent().connected(world.service.channel) as session:
        run = await world.submit(retry_policy=retry)
        for attempt in (1, 2):
            await session.beat()
            grant = await session.next_accepted()
            assert (grant.spec.run, grant.attempt, grant.epoch) == (run, attempt, attempt)
            assert await session.finish(grant, failed()) == OK
        assert (await world.reaches(run, runs_pb2.RUN_STATE_FAILED)).failure.cause == (
            runs_pb2.FAILURE_CAUSE_USER_ERROR
        )
