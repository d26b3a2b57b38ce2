"""What becomes of leases and containers when an agent is killed, left, fenced or told to stop."""

from datetime import timedelta

import pytest

from towline.v1 import leases_pb2, runs_pb2
from towline_agent.core.containers import attempt_key, container_name
from towline_testing.agent import IGNORES_SIGTERM, AgentProcess, python_spec
from towline_testing.engine import (
    base_image,
    containers,
    docker,
    inspect,
)
from towline_testing.lease_peer import LeasePeer

pytestmark = pytest.mark.docker

RUNNING = runs_pb2.RUN_STATE_RUNNING
CANCELLED = runs_pb2.ATTEMPT_OUTCOME_CANCELLED


async def test_a_killed_agent_takes_its_container_up_again(peer: LeasePeer, agent: AgentProcess) -> None:
    program = """
import pathlib, time
print("first", flush=True)
while not pathlib.Path("/towline/go").exists(): time.sleep(0.05)
print("last", flush=True)
raise SystemExit(5)
"""
    grant = await peer.grant(python_spec(program))
    await peer.until(lambda: peer.output(grant) == b"first\n", within=30)
    container = containers(towline_run=grant.spec.run)
    agent.kill()
    agent.start()
    await peer.until(lambda: len(peer.hellos) == 2, within=20)
    (entry,) = peer.hellos[1].inventory
    assert (entry.lease_id, entry.epoch) == (grant.lease_id, grant.epoch)
    assert peer.hellos[0].instance_id == peer.hellos[1].instance_id
    docker("exec", container[0], "touch", "/towline/go")
    result = await peer.finish_of(grant)
    assert result.exit_code == 5 and len(peer.finishes) == 1
    assert peer.output(grant) == b"first\nlast\n"
    assert result.failure.log_tail == "first\nlast\n"
    events = [event.event_seq for event in peer.events]
    assert events == sorted(events) and len(set(events)) == len(events)


async def test_what_ended_while_no_agent_was_there(peer: LeasePeer, agent: AgentProcess) -> None:
    program = "import time; print('one', flush=True); time.sleep(1.5); print('two'); raise SystemExit(4)"
    grant = await peer.grant(python_spec(program))
    await peer.until(lambda: peer.output(grant) == b"one\n", within=30)
    agent.kill()
    (container,) = containers(towline_run=grant.spec.run)
    docker("wait", container)
    agent.start()
    result = await peer.finish_of(grant)
    assert result.exit_code == 4
    assert peer.output(grant) == b"one\ntwo\n"


@pytest.mark.parametrize("noted", [True, False])
async def test_a_container_that_is_gone_is_never_made_again(
    peer: LeasePeer, agent: AgentProcess, noted: bool
) -> None:
    grant = await peer.grant(python_spec("import time; print('once', flush=True); time.sleep(600)"))
    await peer.until(lambda: peer.output(grant) == b"once\n", within=30)
    agent.kill()
    docker("rm", "--force", "--volumes", container_name(grant.spec.run, grant.epoch))
    if not noted:  # killed as soon as it had asked for the start
        (agent.folder / "attempts" / attempt_key(grant.spec.run, grant.epoch) / "started").unlink()
    agent.start()
    result = await peer.finish_of(grant)
    assert result.failure.cause == runs_pb2.FAILURE_CAUSE_CONTROL_PLANE, result
    assert "removed from the engine" in result.failure.message and result.log_size == len(b"once\n")
    assert peer.output(grant) == b"once\n", "executed once"


async def test_a_container_that_was_about_to_be_started_is_started(
    peer: LeasePeer, agent: AgentProcess
) -> None:
    grant = await peer.grant(python_spec("import time; print('once', flush=True); time.sleep(600)"))
    await peer.until(lambda: peer.output(grant) == b"once\n", within=30)
    agent.kill()
    name = container_name(grant.spec.run, grant.epoch)
    docker("rm", "--force", "--volumes", name)
    docker("create", f"--name={name}", base_image(), "sh", "-c", "exit 7")
    agent.start()
    assert (await peer.finish_of(grant)).exit_code == 7


async def test_an_agent_that_leaves_in_order_leaves_its_runs_running(
    peer: LeasePeer, agent: AgentProcess
) -> None:
    grant = await peer.grant(python_spec("import time; time.sleep(600)"))
    await peer.state_of(grant, RUNNING)
    assert await agent.stop() == 0
    assert "1 runs go on" in agent.log()
    (container,) = containers(towline_run=grant.spec.run)
    assert inspect(container)["State"]["Running"]
    agent.start()
    await peer.until(lambda: len(peer.hellos) == 2, within=20)
    await peer.cancel(grant, timedelta(0))
    assert (await peer.finish_of(grant)).outcome == CANCELLED


async def test_a_result_that_nobody_confirmed_is_sent_again(peer: LeasePeer, agent: AgentProcess) -> None:
    peer.confirming = False
    grant = await peer.grant(python_spec("raise SystemExit(9)"))
    await peer.finish_of(grant)
    agent.kill()
    agent.start()
    await peer.until(lambda: len(peer.finishes) == 2, within=20)
    assert peer.hellos[1].inventory[0].unconfirmed_finish
    assert peer.finishes[0] == peer.finishes[1]
    peer.confirming = True
    await peer.say(None)
    await peer.until(lambda: len(peer.finishes) == 3, within=20)
    await peer.until(lambda: not list((agent.folder / "attempts").iterdir()))
    assert not containers(towline_run=grant.spec.run)


async def test_a_stale_lease_is_stopped_and_dropped(peer: LeasePeer, agent: AgentProcess) -> None:
    grant = await peer.grant(python_spec("import time; time.sleep(600)"))
    await peer.state_of(grant, RUNNING)
    peer.verdicts[grant.lease_id] = leases_pb2.VERDICT_ACTION_STOP_STALE
    await peer.say(None)
    await peer.until(lambda: not containers(towline_run=grant.spec.run), within=20)
    await peer.until(lambda: peer.beats[-1].free_slots == 2)
    assert not peer.finishes


async def test_a_lost_lease_is_stopped_and_dropped(peer: LeasePeer, agent: AgentProcess) -> None:
    grant = await peer.grant(python_spec(IGNORES_SIGTERM, grace_s=1))
    await peer.until(lambda: peer.output(grant) == b"ready\n", within=30)
    renewed = leases_pb2.Renewed(ack_seq=1, lost_lease_ids=[grant.lease_id])
    await peer.say(leases_pb2.StreamLeasesResponse(renewed=renewed))
    await peer.until(lambda: not containers(towline_run=grant.spec.run), within=20)
    assert not peer.finishes


async def test_two_containers_of_one_run_never_overlap(peer: LeasePeer, agent: AgentProcess) -> None:
    spec = python_spec(IGNORES_SIGTERM, grace_s=1)
    old = await peer.grant(spec, epoch=1)
    await peer.until(lambda: peer.output(old) == b"ready\n", within=30)
    renewed = leases_pb2.Renewed(ack_seq=1, lost_lease_ids=[old.lease_id])
    await peer.say(leases_pb2.StreamLeasesResponse(renewed=renewed))
    new = await peer.grant(spec, epoch=2)
    most = 0

    def overlap() -> bool:
        nonlocal most
        most = max(most, len(containers(towline_run=spec.run)))
        return peer.output(new) == b"ready\n"

    await peer.until(overlap, within=30)
    assert most == 1
    await peer.cancel(new, timedelta(0))
    await peer.finish_of(new)


async def test_a_cancel_that_came_while_no_agent_was_there(peer: LeasePeer, agent: AgentProcess) -> None:
    grant = await peer.grant(python_spec("import time; print('x', flush=True); time.sleep(600)"))
    await peer.until(lambda: peer.output(grant) == b"x\n", within=30)
    agent.kill()
    peer.verdicts[grant.lease_id] = leases_pb2.VERDICT_ACTION_STOP_CANCELLED
    agent.start()
    result = await peer.finish_of(grant)
    assert result.outcome == CANCELLED and result.exit_code == 143


async def test_a_container_that_no_lease_has_is_removed(peer: LeasePeer, agent: AgentProcess) -> None:
    await agent.stop()
    ours = [f"--label=towline.agent=agents/{agent.name}"]
    instance = f"--label=towline.instance={peer.hellos[0].instance_id}"
    orphan = docker("run", "--detach", *ours, instance, base_image(), "sleep", "600")
    # Another installation on this node, whose agent has the same name.
    other = docker("run", "--detach", *ours, instance + "x", base_image(), "sleep", "600")
    agent.start()
    await peer.until(lambda: orphan not in containers(), within=20)
    # Nobody but the operator knows whether it may go.
    await peer.until(lambda: f"{instance.removeprefix('--label=')}x)" in agent.log())
    assert other in containers()


async def test_leases_that_cannot_be_renewed_stop_their_containers(
    peer: LeasePeer, agent: AgentProcess
) -> None:
    peer.ttl = timedelta(seconds=4)
    grant = await peer.grant(python_spec(IGNORES_SIGTERM, grace_s=60))
    await peer.until(lambda: peer.output(grant).startswith(b"ready\n"), within=30)
    await peer.until(lambda: len(peer.beats) > 3)
    peer.renewing = False
    result = await peer.finish_of(grant, within=15)
    assert result.failure.cause == runs_pb2.FAILURE_CAUSE_NODE_LOST


async def test_slots_are_not_granted_twice(peer: LeasePeer, agent: AgentProcess) -> None:
    grants = [await peer.grant(python_spec("import time; time.sleep(600)")) for _ in range(3)]
    await peer.until(lambda: len(peer.replies) == 3, within=20)
    replies = {reply.lease_id: reply for reply in peer.replies}
    assert [replies[grant.lease_id].accepted for grant in grants] == [True, True, False]
    assert replies[grants[2].lease_id].reason == "no slot is free"
    await peer.until(lambda: peer.beats[-1].free_slots == 0 and peer.beats[-1].grant_seq_seen == 3)
    for grant in grants[:2]:
        await peer.cancel(grant, timedelta(0))
        await peer.finish_of(grant)


async def test_drain_ends_the_agent_when_its_last_run_has(peer: LeasePeer, agent: AgentProcess) -> None:
    grant = await peer.grant(python_spec("import time; time.sleep(600)"))
    await peer.state_of(grant, RUNNING)
    await peer.say(leases_pb2.StreamLeasesResponse(drain=leases_pb2.Drain()))
    await peer.until(lambda: peer.beats[-1].free_slots == 0)
    refused = await peer.grant(python_spec(""))
    await peer.until(lambda: any(reply.lease_id == refused.lease_id for reply in peer.replies))
    assert not peer.replies[-1].accepted
    await peer.cancel(grant, timedelta(0))
    await peer.finish_of(grant)
    assert await agent.ended() == 0
