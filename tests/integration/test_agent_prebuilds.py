"""Runs that only build, on a real agent and engine: nothing is started, and they end as they are told."""

import socket
from collections.abc import Iterator
from datetime import timedelta

import pytest

from towline.v1 import jobs_pb2, leases_pb2, runs_pb2
from towline_testing.agent import AgentProcess, image_spec
from towline_testing.engine import base_image, containers, image_id
from towline_testing.lease_peer import LeasePeer

pytestmark = pytest.mark.docker

PREPARING = runs_pb2.RUN_STATE_PREPARING


@pytest.fixture
def silent() -> Iterator[str]:
    """An image in a registry that never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"127.0.0.1:{listening.getsockname()[1]}/silent:1"


def build_spec(reference: str = "") -> runs_pb2.LaunchSpec:
    """Get an image for a run that could neither be executed nor read its input."""
    spec = image_spec("no-such-program")
    spec.build_only = True
    spec.inputs.append(jobs_pb2.ArtifactInput(name="data", artifact="artifacts/none/versions/v0"))
    if reference:
        spec.job.image.reference = reference
    return spec


async def test_it_ends_when_the_image_is_there(peer: LeasePeer, agent: AgentProcess) -> None:
    grant = await peer.grant(build_spec())
    result = await peer.finish_of(grant)
    assert result == leases_pb2.AttemptResult(outcome=runs_pb2.ATTEMPT_OUTCOME_SUCCEEDED)
    last = peer.events[-1]
    assert (last.lease_id, last.state) == (grant.lease_id, PREPARING)
    assert last.image_outcome == runs_pb2.IMAGE_OUTCOME_REUSED
    assert last.image_id == image_id(base_image())
    await peer.until(lambda: not agent.attempt(grant).exists())


async def test_it_is_cancelled_and_preempted_as_what_has_not_begun(
    peer: LeasePeer, agent: AgentProcess, silent: str
) -> None:
    cancelled, preempted = [await peer.grant(build_spec(silent)) for _ in range(2)]
    for grant in cancelled, preempted:
        await peer.until(lambda key=grant.lease_id: _pulls(peer, key))
    await peer.cancel(cancelled, timedelta(seconds=5))
    assert (await peer.finish_of(cancelled)).outcome == runs_pb2.ATTEMPT_OUTCOME_CANCELLED
    await peer.cancel(preempted, timedelta(seconds=5), leases_pb2.STOP_REASON_PREEMPTED)
    (release,) = await peer.until(lambda: peer.releases)
    assert release.lease_id == preempted.lease_id
    assert not containers(towline_agent=f"agents/{agent.name}")


async def test_a_killed_agent_goes_on_with_it(peer: LeasePeer, agent: AgentProcess, silent: str) -> None:
    grant = await peer.grant(build_spec(silent))
    await peer.until(lambda: _pulls(peer, grant.lease_id))
    agent.kill()
    before = len(peer.events)
    agent.start()
    await peer.until(lambda: any(_is_pull(event) for event in peer.events[before:]), within=20)
    assert [(entry.lease_id, entry.state) for entry in peer.hellos[1].inventory] == [
        (grant.lease_id, runs_pb2.RUN_STATE_LEASED)
    ]
    assert not peer.finishes


def _pulls(peer: LeasePeer, lease_id: str) -> bool:
    return any(event.lease_id == lease_id and _is_pull(event) for event in peer.events)


def _is_pull(event: leases_pb2.RunEvent) -> bool:
    return event.state == PREPARING and bool(event.detail)
