"""Opening, fencing, resuming and ending sessions."""

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import grpc
import pytest

from towline.errors import Aborted, AlreadyExists, InvalidArgument, NotFound, Unavailable
from towline.rpc.channel import open_channel
from towline.v1 import leases_pb2, queues_pb2, runs_pb2
from towline_testing.fake_agent import FakeAgent
from towline_testing.lease_world import LeaseWorld, lease_world, policy, queue_spec
from towline_testing.postgres import PostgresServer
from towline_testing.queue import new_id
from towline_testing.waiting import eventually_async

ADOPT = leases_pb2.VERDICT_ACTION_ADOPT
STOP_STALE = leases_pb2.VERDICT_ACTION_STOP_STALE
STOP_CANCELLED = leases_pb2.VERDICT_ACTION_STOP_CANCELLED
STOP_PREEMPTED = leases_pb2.VERDICT_ACTION_STOP_PREEMPTED
STOP_UNKNOWN = leases_pb2.VERDICT_ACTION_STOP_UNKNOWN
FINISH_CONFIRMED = leases_pb2.VERDICT_ACTION_FINISH_CONFIRMED
OK = leases_pb2.FINISH_VERDICT_OK


@pytest.fixture
async def world(database_url: str, tmp_path: Path) -> AsyncIterator[LeaseWorld]:
    async with lease_world(database_url, tmp_path) as world:
        yield world


async def running(world: LeaseWorld, agent: FakeAgent) -> leases_pb2.Grant:
    """Give the agent a run that is RUNNING, and break its connection."""
    async with agent.connected(world.service.channel, beating=True) as session:
        run = await world.submit()
        grant = await session.next_accepted()
        await session.event(grant, 1, runs_pb2.RUN_STATE_RUNNING)
        await world.reaches(run, runs_pb2.RUN_STATE_RUNNING)
        await session.drop()
    return grant


@pytest.mark.one_postgres
@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"name": "one"}, "hello.agent"),
        ({"name": "agents/"}, "hello.agent"),
        ({"queues": ()}, "hello.queues"),
        ({"queues": ("default",)}, "hello.queues"),
        ({"queues": tuple(f"queues/q{number}" for number in range(65))}, "hello.queues"),
        ({"instance_id": ""}, "hello.instance_id"),
        ({"boot_id": ""}, "hello.boot_id"),
        ({"slots": -1}, "hello.capacity.slots"),
        ({"gpus": ("GPU-1", "GPU-1")}, "hello.gpus"),
        ({"gpus": ("GPU-1,GPU-2",)}, "hello.gpus.id"),
    ],
)
async def test_a_wrong_hello_names_its_field(world: LeaseWorld, change: dict[str, object], field: str):
    with pytest.raises(InvalidArgument) as caught:
        async with FakeAgent(**change).connected(world.service.channel):
            pass
    assert caught.value.metadata == {"field": field}


async def test_a_stream_begins_with_hello_and_has_one(world: LeaseWorld):
    call = world.service.leases.StreamLeases()
    await call.write(leases_pb2.StreamLeasesRequest(heartbeat=leases_pb2.Heartbeat(seq=1)))
    with pytest.raises(grpc.aio.AioRpcError, match="a stream begins with it"):
        await call.read()
    agent = FakeAgent()
    async with agent.connected(world.service.channel) as session:
        await session.say(hello=agent.hello())
        await session.until(lambda: session.ended)
        assert isinstance(session.error, InvalidArgument)


async def test_unknown_queues_are_named_with_the_remedy(world: LeaseWorld):
    with pytest.raises(NotFound, match=r"queues/gpu not found; create it first") as caught:
        async with FakeAgent(queues=("queues/gpu",)).connected(world.service.channel):
            pass
    assert (caught.value.reason, caught.value.metadata) == ("QUEUE_NOT_FOUND", {"queue": "queues/gpu"})


async def test_a_missing_queue_does_not_keep_an_agent_from_the_others(world: LeaseWorld):
    agent = FakeAgent(queues=("queues/gpu", "queues/default"))
    async with agent.connected(world.service.channel) as session:
        assert list(session.welcome.missing_queues) == ["queues/gpu"]
        await session.beat()
        run = await world.submit()
        assert (await session.next_grant()).spec.run == run


async def test_a_second_agent_of_the_same_name_is_refused(world: LeaseWorld):
    async with FakeAgent().connected(world.service.channel) as session:
        with pytest.raises(AlreadyExists, match=r"host-of-one.*another name") as caught:
            async with FakeAgent().connected(world.service.channel):
                pass
        assert caught.value.reason == "AGENT_ID_IN_USE"
        assert caught.value.metadata == {"agent": "agents/one", "hostname": "host-of-one"}
        await session.beat()


async def test_a_name_is_free_after_a_good_bye(world: LeaseWorld):
    async with FakeAgent().connected(world.service.channel):
        pass
    async with FakeAgent().connected(world.service.channel) as session:
        assert session.welcome.session_epoch == 2


async def test_a_broken_connection_is_no_good_bye(world: LeaseWorld):
    async with FakeAgent().connected(world.service.channel) as session:
        await session.beat()
        await session.drop()
    for _ in range(5):
        with pytest.raises(AlreadyExists):
            async with FakeAgent().connected(world.service.channel):
                pass


async def test_a_name_is_free_after_silence(database_url: str, tmp_path: Path):
    times = policy(heartbeat_s=0.1, disconnected_s=1.0, lost_s=60)
    async with lease_world(database_url, tmp_path, policy=times) as world:
        first = FakeAgent()
        grant = await running(world, first)

        async def taken_over() -> bool:
            try:
                async with FakeAgent().connected(world.service.channel) as session:
                    return session.welcome.session_epoch > 1
            except AlreadyExists:
                return False

        await eventually_async(taken_over)
        # The newcomer cannot know whether the first one's container still runs.
        found = await world.get(grant.spec.run)
        assert (found.state, found.unreachable) == (runs_pb2.RUN_STATE_RUNNING, True)


async def test_the_same_instance_fences_its_former_session(world: LeaseWorld):
    agent = FakeAgent()
    async with agent.connected(world.service.channel) as old:
        await old.beat()
        run = await world.submit()
        grant = await old.next_accepted()
        await old.event(grant, 1, runs_pb2.RUN_STATE_RUNNING)
        await world.reaches(run, runs_pb2.RUN_STATE_RUNNING)
        async with agent.connected(world.service.channel) as new:
            assert new.verdicts == {grant.lease_id: ADOPT}
            assert new.welcome.session_epoch == old.welcome.session_epoch + 1
            await old.until(lambda: old.ended)
            assert old.go_away is not None
            assert isinstance(old.error, Aborted)
            assert old.error.reason == "SESSION_SUPERSEDED"
            assert await new.finish(grant) == OK


async def test_a_session_superseded_at_another_replica_ends_with_its_next_heartbeat(world: LeaseWorld):
    agent = FakeAgent()
    async with (
        world.another() as replica,
        agent.connected(world.service.channel) as old,
        agent.connected(replica.channel) as new,
    ):
        await new.beat()
        with pytest.raises(Aborted) as caught:
            await old.beat()
        assert caught.value.reason == "SESSION_SUPERSEDED"


async def test_a_superseded_session_drains_nobody(world: LeaseWorld):
    """The words of a process that is gone by now."""
    agent = FakeAgent()
    async with (
        world.another() as replica,
        agent.connected(world.service.channel) as old,
        agent.connected(replica.channel) as new,
    ):
        await old.say(drain=leases_pb2.Drain(), heartbeat=old.heartbeat())
        await old.until(lambda: old.ended)
        run = await world.submit()
        await new.beat()
        assert (await new.next_grant()).spec.run == run
        assert not new.drained


async def test_a_reconnect_adopts_what_is_current_and_tells_where_it_stands(world: LeaseWorld):
    agent = FakeAgent()
    async with agent.connected(world.service.channel) as session:
        await session.beat()
        run = await world.submit()
        grant = await session.next_grant()
        await session.drop()
    # Accepted and started, but neither word arrived.
    agent.held[grant.lease_id] = grant
    agent.states[grant.lease_id] = runs_pb2.RUN_STATE_RUNNING
    async with agent.connected(world.service.channel) as session:
        assert session.verdicts == {grant.lease_id: ADOPT}
        found = await world.get(run)
        assert found.state == runs_pb2.RUN_STATE_RUNNING
        assert found.attempts[0].times.HasField("start_time")
        assert (await session.beat()).lost_lease_ids == []
        assert not session.inventory_wanted
        assert await session.finish(grant) == OK


async def test_a_reconnect_hears_of_a_cancel(world: LeaseWorld):
    agent = FakeAgent()
    grant = await running(world, agent)
    await world.cancel(grant.spec.run)
    async with agent.connected(world.service.channel) as session:
        assert session.verdicts == {grant.lease_id: STOP_CANCELLED}
        await session.beat()
        # Once with the heartbeat, and perhaps pushed as well: nobody waited for that.
        assert {cancel.lease_id for cancel in session.cancels} == {grant.lease_id}


async def test_a_reconnect_hears_of_a_preemption(world: LeaseWorld):
    agent = FakeAgent()
    grant = await running(world, agent)
    request = runs_pb2.PreemptRunRequest(request_id=str(uuid4()), name=grant.spec.run)
    await world.service.runs.PreemptRun(request)
    async with agent.connected(world.service.channel) as session:
        assert session.verdicts == {grant.lease_id: STOP_PREEMPTED}
        await session.beat()
        assert {cancel.reason for cancel in session.cancels} == {leases_pb2.STOP_REASON_PREEMPTED}


async def test_a_reconnect_after_a_result_that_was_not_confirmed(world: LeaseWorld):
    agent = FakeAgent()
    grant = await running(world, agent)
    finish = leases_pb2.Finish(
        lease_id=grant.lease_id,
        epoch=grant.epoch,
        finish_id=str(uuid4()),
        result=leases_pb2.AttemptResult(outcome=runs_pb2.ATTEMPT_OUTCOME_SUCCEEDED),
    )
    await world.service.leases.FinishLeases(leases_pb2.FinishLeasesRequest(finishes=[finish]))
    agent.unconfirmed.add(grant.lease_id)
    async with agent.connected(world.service.channel) as session:
        assert session.verdicts == {grant.lease_id: FINISH_CONFIRMED}


async def test_what_the_queue_does_not_know_is_stopped(world: LeaseWorld):
    agent = FakeAgent()
    for lease_id, epoch in (("nonsense", 1), ("no-such-run.3", 3), ("no-such-run.3", 4)):
        agent.held = {lease_id: leases_pb2.Grant(lease_id=lease_id, epoch=epoch)}
        async with agent.connected(world.service.channel) as session:
            assert session.verdicts == {lease_id: STOP_UNKNOWN}


async def test_a_stale_lease_is_stopped(world: LeaseWorld):
    agent = FakeAgent()
    async with agent.connected(world.service.channel) as session:
        await session.beat()
        await world.submit()
        old = await session.next_accepted()
        await session.release(old)
        await session.beat()
        new = await session.next_accepted()
        await session.beat()
        await session.drop()
    agent.held[old.lease_id] = old
    async with agent.connected(world.service.channel) as session:
        assert session.verdicts == {old.lease_id: STOP_STALE, new.lease_id: ADOPT}


async def test_a_grant_that_never_arrived_waits_again(world: LeaseWorld):
    agent = FakeAgent()
    async with agent.connected(world.service.channel) as session:
        await session.beat()
        run = await world.submit()
        await session.next_grant()
        await session.drop()
    async with agent.connected(world.service.channel) as session:
        found = await world.get(run)
        assert found.state == runs_pb2.RUN_STATE_QUEUED
        assert found.attempts[0].outcome == runs_pb2.ATTEMPT_OUTCOME_RELEASED
        assert "had not started it" in (await world.sql("SELECT detail FROM queue.ready"))[0][0]
        await session.beat()
        assert (await session.next_accepted()).epoch == 2


async def test_a_run_that_vanished_from_its_node_waits_again(world: LeaseWorld):
    agent = FakeAgent()
    grant = await running(world, agent)
    agent.held.clear()
    agent.boot_id = "boot-2"
    async with agent.connected(world.service.channel) as session:
        found = await world.get(grant.spec.run)
        assert found.state == runs_pb2.RUN_STATE_QUEUED
        (attempt,) = found.attempts
        assert attempt.outcome == runs_pb2.ATTEMPT_OUTCOME_LOST
        assert attempt.failure.cause == runs_pb2.FAILURE_CAUSE_NODE_LOST
        await session.beat()
        again = await session.next_accepted()
        assert (again.spec.run, again.attempt) == (grant.spec.run, 2)


async def test_a_mismatch_of_leases_asks_for_the_inventory_and_settles_it(world: LeaseWorld):
    agent = FakeAgent()
    async with agent.connected(world.service.channel) as session:
        await session.beat()
        run = await world.submit()
        grant = await session.next_accepted()
        await session.beat()
        assert not session.inventory_wanted
        agent.held.clear()  # as if somebody had removed the container and the journal
        await session.beat(free_slots=0)
        assert session.inventory_wanted
        await session.beat(free_slots=0, has_inventory=True, inventory=[])
        found = await world.get(run)
        assert found.state == runs_pb2.RUN_STATE_QUEUED
        assert found.attempts[0].outcome == runs_pb2.ATTEMPT_OUTCOME_LOST
        agent.held["ghost.1"] = leases_pb2.Grant(lease_id="ghost.1", epoch=1)
        renewed = await session.beat(free_slots=0, has_inventory=True, inventory=agent.inventory())
        assert list(renewed.lost_lease_ids) == ["ghost.1"]
        assert grant.lease_id not in renewed.lost_lease_ids


async def test_leases_survive_a_restart_of_the_service(database_url: str, tmp_path: Path):
    agent = FakeAgent()
    async with lease_world(database_url, tmp_path) as world:
        async with world.another() as first, agent.connected(first.channel) as session:
            await session.beat()
            run = await world.submit()
            grant = await session.next_accepted(within=3)
            await session.event(grant, 1, runs_pb2.RUN_STATE_RUNNING)
            await session.beat()
            leaving = session
        # `first` has stopped.
        async with world.another() as second, agent.connected(second.channel) as session:
            assert session.verdicts == {grant.lease_id: ADOPT}
            assert await session.finish(grant) == OK
        assert (await world.get(run)).state == runs_pb2.RUN_STATE_SUCCEEDED
        assert leaving.ended


async def test_a_lease_that_is_shorter_than_the_sessions_heartbeats_brings_new_ones(world: LeaseWorld):
    agent = FakeAgent()
    async with agent.connected(world.service.channel) as session:
        assert session.welcome.heartbeat_interval.ToTimedelta() == timedelta(seconds=5)
        await session.beat()
        short = policy(heartbeat_s=1, disconnected_s=2, lost_s=4)
        update = queues_pb2.UpdateQueueRequest(
            request_id=new_id(), name="queues/default", spec=queue_spec(short)
        )
        await world.service.queues.UpdateQueue(update)
        run = await world.submit()
        grant = await session.next_grant()
        assert grant.ttl.ToTimedelta() == timedelta(seconds=4)
        agent.held[grant.lease_id] = grant
        await session.until(lambda: session.ended)
        assert session.error is None and "policy" in session.go_away.reason
    async with agent.connected(world.service.channel) as session:
        assert session.welcome.heartbeat_interval.ToTimedelta() == timedelta(seconds=1)
        assert session.verdicts == {grant.lease_id: ADOPT}
        assert await session.finish(grant) == OK
        await world.submit()
        await session.beat()
        await session.next_accepted()
        await session.beat()
        assert session.go_away is None
    assert (await world.get(run)).state == runs_pb2.RUN_STATE_SUCCEEDED


async def test_a_service_that_stops_says_go_away_first(database_url: str, tmp_path: Path):
    agent = FakeAgent()
    async with lease_world(database_url, tmp_path) as world:
        stopping = world.another()
        service = await stopping.__aenter__()
        async with open_channel(service.address) as channel, agent.connected(channel) as session:
            await session.beat()
            await stopping.__aexit__(None, None, None)
            await session.until(lambda: session.ended)
        assert session.go_away is not None
        assert session.go_away.HasField("reconnect_after")
        assert session.go_away.HasField("jitter")
        assert isinstance(session.error, Unavailable)


async def test_a_session_outlives_a_restart_of_postgresql(world: LeaseWorld, postgres: PostgresServer):
    agent = FakeAgent()
    async with agent.connected(world.service.channel) as session:
        await session.beat()
        run = await world.submit()
        grant = await session.next_accepted()
        postgres.stop("immediate")
        heartbeat = session.heartbeat()
        await session.event(grant, 1, runs_pb2.RUN_STATE_RUNNING)
        await session.say(heartbeat=heartbeat)
        postgres.start()
        await session.until(lambda: session.renewed[-1].ack_seq == heartbeat.seq)
        assert (await world.get(run)).state == runs_pb2.RUN_STATE_RUNNING
        assert await session.finish(grant) == OK
        again = await world.submit()
        await session.beat()
        assert (await session.next_accepted()).spec.run == again
