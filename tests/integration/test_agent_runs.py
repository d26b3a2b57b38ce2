"""Runs on a real engine, by a real agent process, for a queue service that the tests play."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from towline.errors import Aborted, AlreadyExists, NotFound
from towline.rpc.channel import open_channel
from towline.v1 import agent_pb2, agent_pb2_grpc, jobs_pb2, leases_pb2, runs_pb2
from towline_testing.agent import AgentProcess, image_spec, launch_spec, python_spec
from towline_testing.engine import (
    EngineProxy,
    base_image,
    containers,
    docker,
    image_id,
    inspect,
    remove_containers,
    volumes,
)
from towline_testing.lease_peer import LeasePeer

pytestmark = pytest.mark.docker

RUNNING = runs_pb2.RUN_STATE_RUNNING
SUCCEEDED = runs_pb2.ATTEMPT_OUTCOME_SUCCEEDED
FAILED = runs_pb2.ATTEMPT_OUTCOME_FAILED
CANCELLED = runs_pb2.ATTEMPT_OUTCOME_CANCELLED


@pytest.fixture
async def peer() -> AsyncIterator[LeasePeer]:
    async with LeasePeer().serving() as serving:
        yield serving


@pytest.fixture
async def agent(peer: LeasePeer, tmp_path: Path) -> AsyncIterator[AgentProcess]:
    made = AgentProcess(tmp_path / "a", {"TOWLINE_AGENT_QUEUE_ADDRESS": peer.address})
    made.settings["TOWLINE_AGENT_SLOTS"] = "2"
    made.start()
    await peer.until(lambda: any(beat.free_slots for beat in peer.beats))
    yield made
    if made.process and made.process.poll() is None:
        made.kill()
    remove_containers(towline_agent=f"agents/{made.name}")


async def test_a_run_succeeds_and_leaves_nothing(peer: LeasePeer, agent: AgentProcess) -> None:
    program = """
import os, time
print("hello", flush=True)
while not os.path.exists("/towline/go"): time.sleep(0.05)
"""
    grant = await peer.grant(python_spec(program))
    await peer.until(lambda: peer.output(grant), within=30)
    (container,) = containers(towline_run=grant.spec.run)
    (volume,) = (mount["Name"] for mount in inspect(container)["Mounts"])
    docker("exec", container, "touch", "/towline/go")
    result = await peer.finish_of(grant)
    assert result.outcome == SUCCEEDED, result
    assert result.exit_code == 0
    assert peer.output(grant) == b"hello\n"
    assert result.log_size == 6
    assert [event.state for event in peer.events] == sorted(event.state for event in peer.events)
    running = await peer.state_of(grant, RUNNING)
    assert running.image_id == image_id(base_image())
    assert running.image_outcome == runs_pb2.IMAGE_OUTCOME_REUSED
    assert peer.replies[0].accepted
    await peer.until(lambda: not list((agent.folder / "attempts").iterdir()))
    assert not containers(towline_run=grant.spec.run)
    assert volume not in volumes()
    await peer.until(lambda: peer.beats[-1].free_slots == 2)


async def test_the_container_contract(peer: LeasePeer, agent: AgentProcess) -> None:
    program = """
import json, os, sys, towline
print(json.dumps({name: value for name, value in os.environ.items() if name != "HOSTNAME"}))
print(open(os.environ["TOWLINE_CONFIG"]).read())
print(towline.__file__)
"""
    spec = image_spec("python3", "-c", program, environment={"IMAGE": "<${image}>", "PYTHONPATH": "/mine"})
    spec.config_json = '{"lr": 0.5}'
    grant = await peer.grant(spec, epoch=7)
    assert (await peer.finish_of(grant)).outcome == SUCCEEDED, peer.output(grant)
    environment, config, module = peer.output(grant).decode().splitlines()
    assert json.loads(environment) == {
        "HOME": "/root",
        "IMAGE": f"<{image_id(base_image())}>",
        "LANG": "C.UTF-8",
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "PYTHONPATH": "/towline/runtime:/mine",
        "PYTHONUNBUFFERED": "1",
        "TOWLINE_ATTEMPT": "1",
        "TOWLINE_CONFIG": "/towline/config.json",
        "TOWLINE_EPOCH": "7",
        "TOWLINE_JOB": spec.job_version,
        "TOWLINE_OUTPUTS": "/towline/outputs",
        "TOWLINE_QUEUE": "queues/default",
        "TOWLINE_RUN": spec.run,
        "TOWLINE_RUN_NAME": "a run",
    }
    assert json.loads(config) == {"lr": 0.5}
    assert module == "/towline/runtime/towline/__init__.py"


async def test_limits_and_rights_are_the_queues(peer: LeasePeer, agent: AgentProcess) -> None:
    program = """
import os, resource
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
shm = os.statvfs("/dev/shm")
rights = [status[name].strip() for name in ("CapBnd", "NoNewPrivs")]
print(os.getuid(), os.getgid(), *rights, shm.f_frsize * shm.f_blocks)
print(resource.getrlimit(resource.RLIMIT_NOFILE))
open("/tmp/x", "w"); open("/towline/outputs/x", "w")
try:
    open("/x", "w")
except OSError as error:
    print(error.strerror)
import time; time.sleep(60)
"""
    spec = python_spec(
        program,
        memory_bytes=256 * 2**20,
        nano_cpus=500_000_000,
        shm_size_bytes=32 * 2**20,
        user="1234:99",
        capabilities=["SYS_NICE"],
        read_only_root=True,
        ulimits={"nofile": 100},
        network="none",
    )
    grant = await peer.grant(spec)
    await peer.until(lambda: b"Read-only" in peer.output(grant), within=30)
    assert peer.output(grant).decode().splitlines() == [
        f"1234 99 {1 << 23:016x} 1 {32 * 2**20}",
        "(100, 100)",
        "Read-only file system",
    ]
    (container,) = containers(towline_run=spec.run)
    found = inspect(container)
    host = found["HostConfig"]
    assert host["Memory"] == host["MemorySwap"] == 256 * 2**20
    assert host["NanoCpus"] == 500_000_000 and host["PidsLimit"] == 512
    assert host["Init"] and host["NetworkMode"] == "none" and not host["Privileged"]
    assert found["Config"]["Labels"]["towline.lease"] == grant.lease_id
    await peer.cancel(grant, timedelta(0))
    await peer.finish_of(grant)


async def test_a_failing_program(peer: LeasePeer, agent: AgentProcess) -> None:
    grant = await peer.grant(python_spec("print('about to fail'); raise SystemExit(3)"))
    result = await peer.finish_of(grant)
    assert result.outcome == FAILED and result.exit_code == 3
    assert result.failure.cause == runs_pb2.FAILURE_CAUSE_USER_ERROR
    assert result.failure.exit_code == 3
    assert result.failure.message.endswith("exited with code 3.")
    assert result.failure.log_tail == "about to fail\n"


async def test_a_command_that_is_not_there(peer: LeasePeer, agent: AgentProcess) -> None:
    grant = await peer.grant(image_spec("no-such-command", "--x"))
    failure = (await peer.finish_of(grant)).failure
    assert failure.cause == runs_pb2.FAILURE_CAUSE_USER_ERROR
    assert "`no-such-command --x` was not found in the image" in failure.message


async def test_killed_for_memory(peer: LeasePeer, agent: AgentProcess) -> None:
    grant = await peer.grant(python_spec("b'x' * 10**9", memory_bytes=64 * 2**20))
    result = await peer.finish_of(grant)
    assert result.failure.cause == runs_pb2.FAILURE_CAUSE_OOM
    assert "64 MiB" in result.failure.message
    assert result.exit_code == 137


async def test_an_image_that_is_nowhere(peer: LeasePeer, agent: AgentProcess) -> None:
    job = jobs_pb2.JobSpec(image=jobs_pb2.ImageSource(reference="localhost:1/absent:x"))
    grant = await peer.grant(launch_spec(job))
    failure = (await peer.finish_of(grant)).failure
    assert failure.cause == runs_pb2.FAILURE_CAUSE_IMAGE_PULL
    assert "localhost:1/absent:x" in failure.message


async def test_a_mount_that_is_not_there(peer: LeasePeer, agent: AgentProcess) -> None:
    spec = python_spec("")
    spec.docker.mounts.add(source="/absent-on-this-node", target="/data")
    grant = await peer.grant(spec)
    failure = (await peer.finish_of(grant)).failure
    assert failure.cause == runs_pb2.FAILURE_CAUSE_USER_ERROR
    assert "/absent-on-this-node" in failure.message
    assert not containers(towline_run=spec.run)


IGNORES_SIGTERM = """
import signal, time
signal.signal(signal.SIGTERM, lambda *_: print("no", flush=True))
print("ready", flush=True)
while True: time.sleep(60)
"""


async def test_cancel_ends_a_silent_process(peer: LeasePeer, agent: AgentProcess) -> None:
    grant = await peer.grant(python_spec("import time; time.sleep(600)"))
    await peer.state_of(grant, RUNNING)
    await peer.cancel(grant, timedelta(seconds=30))
    await peer.cancel(grant, timedelta(seconds=30))
    result = await peer.finish_of(grant, within=10)
    assert result.outcome == CANCELLED
    assert result.failure.cause == runs_pb2.FAILURE_CAUSE_CANCELLED
    assert result.exit_code == 143


async def test_cancel_ends_a_process_that_ignores_it(peer: LeasePeer, agent: AgentProcess) -> None:
    grant = await peer.grant(python_spec(IGNORES_SIGTERM))
    await peer.until(lambda: peer.output(grant) == b"ready\n", within=30)
    await peer.cancel(grant, timedelta(seconds=0.5))
    told = await peer.state_of(grant, runs_pb2.RUN_STATE_STOPPING)
    assert told.detail == "stopping on request"
    result = await peer.finish_of(grant)
    assert result.outcome == CANCELLED and result.exit_code == 137
    assert peer.output(grant) == b"ready\nno\n"


async def test_cancel_lets_a_process_end_in_order(peer: LeasePeer, agent: AgentProcess) -> None:
    program = """
import signal, sys, time
def end(*_): print("saved", flush=True); sys.exit(0)
signal.signal(signal.SIGTERM, end)
print("ready", flush=True)
time.sleep(600)
"""
    grant = await peer.grant(python_spec(program))
    await peer.until(lambda: peer.output(grant) == b"ready\n", within=30)
    await peer.cancel(grant, timedelta(seconds=30))
    assert (await peer.finish_of(grant)).outcome == CANCELLED
    assert peer.output(grant) == b"ready\nsaved\n"


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
    assert [reply.accepted for reply in peer.replies] == [True, True, False]
    assert peer.replies[2].reason == "no slot is free"
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


async def test_a_queue_service_that_restarts(tmp_path: Path) -> None:
    program = "import time\nfor i in range(300): print(f'{i:0199}'); time.sleep(0.01)"
    peer = LeasePeer()
    async with peer.serving():
        agent = AgentProcess(tmp_path / "a", {"TOWLINE_AGENT_QUEUE_ADDRESS": peer.address})
        agent.start()
        await peer.until(lambda: any(beat.free_slots for beat in peer.beats))
        grant = await peer.grant(python_spec(program))
        await peer.until(lambda: len(peer.output(grant)) > 5000, within=30)
    try:
        (container,) = containers(towline_run=grant.spec.run)
        await asyncio.to_thread(docker, "wait", container)
        async with peer.serving(peer.address):
            result = await peer.finish_of(grant)
            assert result.log_size == 300 * 200
            assert peer.output(grant) == b"".join(b"%0199d\n" % i for i in range(300))
            assert peer.hellos[1].session_id, "the same process, so the queue service can tell"
            await peer.until(lambda: not containers(towline_run=grant.spec.run))
    finally:
        agent.kill()
        remove_containers(towline_agent=f"agents/{agent.name}")


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[EngineProxy]:
    proxy = EngineProxy(tmp_path / "docker.sock")
    await proxy.start()
    yield proxy
    await proxy.stop()


@pytest.mark.parametrize(
    ("code", "cause"),
    [(0, None), (3, runs_pb2.FAILURE_CAUSE_USER_ERROR), (137, runs_pb2.FAILURE_CAUSE_CONTROL_PLANE)],
)
async def test_an_engine_that_stops_and_comes_back(
    peer: LeasePeer, tmp_path: Path, engine: EngineProxy, code: int, cause: int | None
) -> None:
    settings = {"TOWLINE_AGENT_QUEUE_ADDRESS": peer.address, "TOWLINE_AGENT_DOCKER_HOST": engine.url}
    agent = AgentProcess(tmp_path / "a", settings)
    agent.start()
    try:
        await peer.until(lambda: any(beat.free_slots for beat in peer.beats))
        program = f"""
import os, time
print("one", flush=True)
while not os.path.exists("/towline/go"): time.sleep(0.05)
print("two", flush=True)
os._exit({code})
"""
        grant = await peer.grant(python_spec(program))
        await peer.until(lambda: peer.output(grant) == b"one\n", within=30)
        await engine.stop()
        await peer.until(lambda: "Docker Engine does not answer" in peer.events[-1].detail)
        assert peer.beats[-1].free_slots == 0
        (container,) = containers(towline_run=grant.spec.run)
        docker("exec", container, "touch", "/towline/go")
        await asyncio.to_thread(docker, "wait", container)
        await engine.start()
        result = await peer.finish_of(grant)
        assert result.exit_code == code
        assert result.failure.cause == (cause or 0)
        assert peer.output(grant) == b"one\ntwo\n"
        await peer.until(lambda: peer.beats[-1].free_slots == 1)
    finally:
        agent.kill()
        remove_containers(towline_agent=f"agents/{agent.name}")


async def test_the_agent_tells_how_it_is(peer: LeasePeer, agent: AgentProcess) -> None:
    grant = await peer.grant(python_spec("import time; time.sleep(600)"))
    await peer.state_of(grant, RUNNING)
    async with open_channel(f"unix:{agent.folder}/s") as channel:
        health = health_pb2_grpc.HealthStub(channel)
        check = await health.Check(health_pb2.HealthCheckRequest(service="towline.v1.AgentService"))
        assert check.status == health_pb2.HealthCheckResponse.SERVING
        stub = agent_pb2_grpc.AgentServiceStub(channel)
        status = await stub.GetStatus(agent_pb2.GetStatusRequest())
        assert status.agent == f"agents/{agent.name}"
        assert status.connected and status.engine_ready and not status.draining and not status.detail
        assert status.capacity.slots == 2
        (lease,) = status.leases
        assert lease.lease_id == grant.lease_id and lease.state == RUNNING
        assert lease.container_id == containers(towline_run=grant.spec.run)[0]
        await stub.Drain(agent_pb2.DrainRequest())
        assert (await stub.GetStatus(agent_pb2.GetStatusRequest())).draining
    await peer.until(lambda: peer.drains == 1)
    await peer.cancel(grant, timedelta(0))
    assert await agent.ended() == 0


async def test_a_log_that_is_refused_holds_up_no_other(peer: LeasePeer, agent: AgentProcess) -> None:
    one, two = python_spec("print('one')"), python_spec("print('two')")
    peer.log_refusals[one.run] = NotFound("no such run", reason="RUN_NOT_FOUND")
    grants = [await peer.grant(one), await peer.grant(two)]
    for grant in grants:
        assert (await peer.finish_of(grant)).outcome == SUCCEEDED
    assert peer.output(grants[1]) == b"two\n"


async def test_a_large_log_is_complete_before_the_result(peer: LeasePeer, agent: AgentProcess) -> None:
    grant = await peer.grant(python_spec("for i in range(200_000): print(f'{i:049}')"))
    result = await peer.finish_of(grant, within=60)
    assert result.log_size == 200_000 * 50 == len(peer.output(grant))


async def test_an_agent_that_is_refused_says_why(peer: LeasePeer, tmp_path: Path) -> None:
    peer.refusal = AlreadyExists("agents/x is connected from node-7", reason="AGENT_ID_IN_USE")
    agent = AgentProcess(tmp_path / "b", {"TOWLINE_AGENT_QUEUE_ADDRESS": peer.address})
    agent.start()
    assert await agent.ended() == 1
    assert agent.log().rstrip().endswith("agents/x is connected from node-7")
    assert "Traceback" not in agent.log()


async def test_a_superseded_agent_leaves_its_containers_alone(peer: LeasePeer, agent: AgentProcess) -> None:
    grant = await peer.grant(python_spec("import time; time.sleep(600)"))
    await peer.state_of(grant, RUNNING)
    await peer.say(Aborted("another process of this agent has connected", reason="SESSION_SUPERSEDED"))
    assert await agent.ended() == 1
    (container,) = containers(towline_run=grant.spec.run)
    assert inspect(container)["State"]["Running"]


async def test_a_queue_that_is_made_later(peer: LeasePeer, tmp_path: Path) -> None:
    peer.refusal = NotFound("queues/default does not exist", reason="QUEUE_NOT_FOUND")
    agent = AgentProcess(tmp_path / "b", {"TOWLINE_AGENT_QUEUE_ADDRESS": peer.address})
    agent.start()
    try:
        await peer.until(lambda: len(peer.hellos) == 2, within=20)
        peer.refusal = None
        await peer.until(lambda: peer.beats, within=20)
        assert agent.log().count("queues/default does not exist") == 1
    finally:
        agent.kill()


async def test_queues_that_are_missing_are_named_once(peer: LeasePeer, agent: AgentProcess) -> None:
    peer.missing_queues = ["queues/typo", "queues/later"]
    for sessions in (2, 3):
        await peer.say(None)
        await peer.until(lambda wanted=sessions: len(peer.hellos) == wanted)
    beats = len(peer.beats)
    await peer.until(lambda: len(peer.beats) > beats)
    assert agent.log().count("not served until created: queues/typo, queues/later;") == 1


async def test_a_second_agent_on_the_same_folder(agent: AgentProcess) -> None:
    second = AgentProcess(agent.folder, agent.settings, name=agent.name)
    second.start()
    assert await second.ended() == 1
    assert agent.process and f"already running as pid {agent.process.pid}" in second.log()
    assert agent.process.poll() is None


async def test_an_agent_without_an_engine_waits(peer: LeasePeer, tmp_path: Path) -> None:
    settings = {
        "TOWLINE_AGENT_QUEUE_ADDRESS": peer.address,
        "TOWLINE_AGENT_DOCKER_HOST": f"unix://{tmp_path}/docker.sock",
    }
    agent = AgentProcess(tmp_path / "b", settings)
    agent.start()
    try:
        await peer.until(lambda: len(peer.beats) > 2)
        assert not any(beat.free_slots for beat in peer.beats)
        assert "no runs are taken until it does" in agent.log()
        grant = await peer.grant(python_spec(""))
        await peer.until(lambda: peer.replies)
        assert not peer.replies[0].accepted and "Docker Engine" in peer.replies[0].reason, grant
        assert agent.process
        agent.process.send_signal(signal.SIGINT)
        assert await agent.ended() == 0
    finally:
        agent.kill()
