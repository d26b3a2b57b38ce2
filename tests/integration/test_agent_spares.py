"""The volume that is filled before a run needs it: what a run finds in it, and that none is left behind."""

from pathlib import Path

import pytest

from towline.v1 import leases_pb2, runs_pb2
from towline_testing.agent import AgentProcess, python_spec
from towline_testing.engine import containers, docker, inspect, volumes
from towline_testing.lease_peer import LeasePeer

pytestmark = pytest.mark.docker

SHOWS = """
import json, os, sys, time, towline
for folder, folders, files in sorted(os.walk("/towline")):
    if not folder.startswith("/towline/runtime/"):
        print(folder, oct(os.stat(folder).st_mode), sorted(folders), sorted(files))
print(open(os.environ["TOWLINE_CONFIG"]).read(), open(os.environ["TOWLINE_INPUTS_FILE"]).read())
open("/towline/results/summary.json", "w").write('{"loss": 1}')
"""


async def ready(peer: LeasePeer, agent: AgentProcess) -> str:
    """Wait until a volume is ready, and return its name."""

    def found() -> str:
        filters = (f"--filter=label=towline.agent=agents/{agent.name}", "--filter=label=towline.spare")
        shown = ("--filter=dangling=true", "--format={{.Name}} {{.Mountpoint}}")
        for line in docker("volume", "ls", *filters, *shown).splitlines():
            name, _, folder = line.partition(" ")
            # It is made before the container that it is filled through, which goes last.
            if any(Path(folder).glob("*")) and not containers(towline_agent=f"agents/{agent.name}"):
                return name
        return ""

    return str(await peer.until(found, within=20))


async def execute(peer: LeasePeer, agent: AgentProcess, spec: runs_pb2.LaunchSpec) -> tuple[bytes, str]:
    """Run something to its end, and return what it printed and the volume that it had."""
    spec.job.entrypoint[-1] += "\nwhile not os.path.exists('/towline/go'): time.sleep(0.01)"
    grant = await peer.grant(spec)
    await peer.until(lambda: peer.output(grant).endswith(b"}\n"), within=30)
    (container,) = containers(towline_run=grant.spec.run)
    (volume,) = (mount["Name"] for mount in inspect(container)["Mounts"])
    docker("exec", container, "touch", "/towline/go")
    result = await peer.finish_of(grant)
    assert result.outcome == runs_pb2.ATTEMPT_OUTCOME_SUCCEEDED, result
    assert result.summary_json == '{"loss": 1}' and result.log_size == len(peer.output(grant))
    await gone(peer, agent, grant, volume)
    return peer.output(grant), str(volume)


async def gone(peer: LeasePeer, agent: AgentProcess, grant: leases_pb2.Grant, volume: str) -> None:
    await peer.until(lambda: not agent.attempt(grant).exists() and volume not in volumes(), within=20)


async def test_a_run_finds_the_same_whether_a_volume_was_ready_or_not(
    peer: LeasePeer, agent: AgentProcess
) -> None:
    before, own = await execute(peer, agent, python_spec(SHOWS))
    spare = await ready(peer, agent)
    after, used = await execute(peer, agent, python_spec(SHOWS))
    assert used == spare != own
    assert after == before and before.count(b"\n") >= 5
    # Somebody removes what nobody uses just before the next run comes.
    docker("volume", "rm", await ready(peer, agent))
    assert await execute(peer, agent, python_spec(SHOWS)) != (after, own)
    assert (await execute(peer, agent, python_spec(SHOWS)))[0] == before


async def test_a_run_with_parameters_has_a_volume_of_its_own(peer: LeasePeer, agent: AgentProcess) -> None:
    await execute(peer, agent, python_spec(SHOWS))
    spare = await ready(peer, agent)
    spec = python_spec(SHOWS)
    spec.config_json = '{"lr": 0.5}'
    output, own = await execute(peer, agent, spec)
    assert b'{"lr": 0.5} {}\n' in output and own != spare
    assert await ready(peer, agent) == spare


async def test_what_an_agent_that_crashed_had_ready_goes(peer: LeasePeer, agent: AgentProcess) -> None:
    await execute(peer, agent, python_spec(SHOWS))
    spare = await ready(peer, agent)
    agent.kill()
    agent.start()
    await peer.until(lambda: spare not in volumes(), within=20)
