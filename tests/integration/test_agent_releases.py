"""Leases that go back before their containers were started: nothing is lost, and nothing counts."""

import asyncio
from datetime import timedelta

import pytest

from towline.v1 import leases_pb2, runs_pb2
from towline_testing.agent import AgentProcess, python_spec
from towline_testing.engine import containers
from towline_testing.lease_peer import LeasePeer

pytestmark = pytest.mark.docker

SLEEPS = "import time; print('ready', flush=True); time.sleep(600)"
STARTING = "starting the container"


async def unstarted(peer: LeasePeer) -> leases_pb2.Grant:
    """Grant a run whose container is not started, as the agent hears of no renewal any more."""
    peer.renewing = False
    grant = await peer.grant(python_spec(SLEEPS))
    key = grant.lease_id
    await peer.until(lambda: any(e.lease_id == key and e.detail == STARTING for e in peer.events), within=30)
    await peer.until(lambda: containers(towline_run=grant.spec.run))
    return grant


async def test_a_preemption_before_the_start_is_a_release(peer: LeasePeer, agent: AgentProcess) -> None:
    grant = await unstarted(peer)
    await peer.cancel(grant, timedelta(seconds=5), leases_pb2.STOP_REASON_PREEMPTED)
    (release,) = await peer.until(lambda: peer.releases)
    assert (release.lease_id, release.epoch) == (grant.lease_id, grant.epoch)
    assert "preempted" in release.reason
    assert not containers(towline_run=grant.spec.run)
    await peer.until(lambda: peer.beats[-1].free_slots == 2)
    assert agent.attempt(grant).exists(), "nobody has acknowledged it"
    peer.renewing = True
    await peer.until(lambda: not agent.attempt(grant).exists())
    assert not peer.finishes and len(peer.releases) == 1


async def test_a_drain_gives_back_what_waits_and_lets_run_what_runs(
    peer: LeasePeer, agent: AgentProcess
) -> None:
    runs = await peer.grant(python_spec("import time; print('ready', flush=True); time.sleep(6)"))
    await peer.until(lambda: peer.output(runs) == b"ready\n", within=30)
    waits = await unstarted(peer)
    await peer.say(leases_pb2.StreamLeasesResponse(drain=leases_pb2.Drain()))
    (release,) = await peer.until(lambda: peer.releases)
    assert (release.lease_id, release.reason) == (waits.lease_id, "the agent drains")
    peer.renewing = True
    assert (await peer.finish_of(runs)).outcome == runs_pb2.ATTEMPT_OUTCOME_SUCCEEDED
    assert await agent.ended() == 0
    assert [finish.lease_id for finish in peer.finishes] == [runs.lease_id]
    assert not containers(towline_run=waits.spec.run)


@pytest.mark.parametrize(
    ("verdict", "goes_on"),
    [(leases_pb2.VERDICT_ACTION_STOP_STALE, False), (leases_pb2.VERDICT_ACTION_ADOPT, True)],
)
async def test_an_agent_that_dies_as_it_gives_back_does_as_it_is_told(
    peer: LeasePeer, agent: AgentProcess, verdict: leases_pb2.VerdictAction.ValueType, goes_on: bool
) -> None:
    grant = await unstarted(peer)
    await peer.cancel(grant, timedelta(seconds=5), leases_pb2.STOP_REASON_PREEMPTED)
    await peer.until(lambda: peer.releases)
    await asyncio.to_thread(agent.kill)
    peer.verdicts[grant.lease_id] = verdict
    peer.renewing = True
    agent.start()
    await peer.until(lambda: len(peer.hellos) == 2, within=20)
    assert [entry.lease_id for entry in peer.hellos[1].inventory] == [grant.lease_id]
    if goes_on:  # the queue service has not heard of it
        await peer.until(lambda: peer.output(grant) == b"ready\n", within=30)
    else:
        await peer.until(lambda: not agent.attempt(grant).exists())
        assert not peer.output(grant)
    assert not peer.finishes and len(peer.releases) == 1
