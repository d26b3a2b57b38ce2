"""What the agent keeps on disk is enough, whatever is killed, removed or full; and how results get away."""

import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from towline.errors import NotFound
from towline.v1 import leases_pb2, runs_pb2
from towline_testing.agent import AgentProcess, python_spec
from towline_testing.engine import containers, docker, remove_containers
from towline_testing.lease_peer import LeasePeer

pytestmark = pytest.mark.docker

SUCCEEDED = runs_pb2.ATTEMPT_OUTCOME_SUCCEEDED
WAITS = """
import os, time
print("ready", flush=True)
while not os.path.exists("/towline/go"): time.sleep(0.05)
print("gone", flush=True)
raise SystemExit(7)
"""


async def go(peer: LeasePeer, grant: leases_pb2.Grant) -> str:
    """Let the program of a grant end; returns its container."""
    await peer.until(lambda: peer.output(grant) == b"ready\n", within=30)
    (container,) = containers(towline_run=grant.spec.run)
    docker("exec", container, "touch", "/towline/go")
    return container


async def test_an_exit_outlives_its_container_and_the_agent(peer: LeasePeer, agent: AgentProcess) -> None:
    grant = await peer.grant(python_spec(WAITS))
    await peer.until(lambda: peer.output(grant) == b"ready\n", within=30)
    peer.log_delay.clear()  # the result waits for the log
    container = await go(peer, grant)
    await peer.until((agent.attempt(grant) / "exit").exists)
    agent.kill()
    docker("rm", "--force", "--volumes", container)
    peer.log_delay.set()
    agent.start()
    result = await peer.finish_of(grant)
    assert result.exit_code == 7 and result.failure.cause == runs_pb2.FAILURE_CAUSE_USER_ERROR
    assert result.log_size == len(peer.output(grant))
    assert not containers(towline_run=grant.spec.run), "it was not run again"


@pytest.mark.parametrize("damaged", ["finish", "exit"])
async def test_a_damaged_record_is_made_again(peer: LeasePeer, agent: AgentProcess, damaged: str) -> None:
    peer.confirming = False
    grant = await peer.grant(python_spec(WAITS))
    await go(peer, grant)
    await peer.finish_of(grant)
    agent.kill()
    (agent.attempt(grant) / "finish").unlink()
    (agent.attempt(grant) / damaged).write_bytes(b"\xff{")
    peer.confirming = True
    agent.start()
    await peer.until(lambda: len(peer.finishes) == 2, within=20)
    assert peer.finishes[1].result == peer.finishes[0].result
    assert f"{damaged} cannot be read" in agent.log()


async def test_an_agent_that_leaves_delivers_what_nobody_has_confirmed(
    peer: LeasePeer, agent: AgentProcess
) -> None:
    peer.confirming = False
    grant = await peer.grant(python_spec(""))
    await peer.finish_of(grant)
    assert await agent.stop() == 0
    assert peer.without_session == peer.finishes


async def test_results_need_no_session(peer: LeasePeer, agent: AgentProcess) -> None:
    grant = await peer.grant(python_spec(WAITS))
    await peer.until(lambda: peer.output(grant) == b"ready\n", within=30)
    peer.refusal = NotFound("queues/default does not exist", reason="QUEUE_NOT_FOUND")
    await peer.say(None)
    await go(peer, grant)
    await peer.until(lambda: peer.without_session, within=30)
    assert peer.without_session[0].result.exit_code == 7 and not peer.finishes
    await peer.until(lambda: not containers(towline_run=grant.spec.run))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("mounting a file system needs root")
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


@asynccontextmanager
async def agent_on(folder: Path, peer: LeasePeer) -> AsyncIterator[AgentProcess]:
    settings = {"TOWLINE_AGENT_QUEUE_ADDRESS": peer.address, "TOWLINE_AGENT_LISTEN": f"unix:{folder}.sock"}
    made = AgentProcess(folder / "a", settings | {"TOWLINE_AGENT_SLOTS": "2"})
    made.start()
    try:
        await peer.until(lambda: any(beat.free_slots for beat in peer.beats))
        yield made
    finally:
        made.kill()
        remove_containers(towline_agent=f"agents/{made.name}")


def fill(folder: Path) -> Path:
    """Leave no byte free."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            return filler


async def test_a_full_disk(peer: LeasePeer, small_disk: Path) -> None:
    peer.confirming = False
    async with agent_on(small_disk, peer) as agent:
        grant = await peer.grant(python_spec(WAITS))
        await peer.until(lambda: peer.output(grant) == b"ready\n", within=30)
        filler = fill(small_disk)

        refused = await peer.grant(python_spec(""))
        await peer.until(lambda: any(reply.lease_id == refused.lease_id for reply in peer.replies))
        assert not peer.replies[-1].accepted and "No space left" in peer.replies[-1].reason
        await peer.until(lambda: peer.beats[-1].free_slots == 0)

        await go(peer, grant)
        assert (await peer.finish_of(grant)).exit_code == 7
        assert not (agent.attempt(grant) / "finish").exists()

        # An agent that starts on a full disk looks after its runs all the same.
        agent.kill()
        agent.start()
        await peer.until(lambda: len(peer.finishes) == 2, within=20)
        assert peer.finishes[1].result.exit_code == 7
        assert containers(towline_run=grant.spec.run), "the result is in memory only: it may be needed again"

        filler.unlink()
        await peer.until((agent.attempt(grant) / "finish").exists, within=20)
        await peer.until(lambda: peer.beats[-1].free_slots == 2, within=20)
        peer.confirming = True
        await peer.say(None)
        await peer.until(lambda: not agent.attempt(grant).exists(), within=20)
