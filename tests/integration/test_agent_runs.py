"""Runs on a real engine, by a real agent process, for a queue service that the tests play."""

import json
from datetime import timedelta

import pytest

from towline.v1 import jobs_pb2, runs_pb2
from towline_testing.agent import IGNORES_SIGTERM, AgentProcess, image_spec, launch_spec, python_spec
from towline_testing.engine import (
    base_image,
    containers,
    docker,
    image_id,
    inspect,
    volumes,
)
from towline_testing.lease_peer import LeasePeer

pytestmark = pytest.mark.docker

RUNNING = runs_pb2.RUN_STATE_RUNNING
SUCCEEDED = runs_pb2.ATTEMPT_OUTCOME_SUCCEEDED
FAILED = runs_pb2.ATTEMPT_OUTCOME_FAILED
CANCELLED = runs_pb2.ATTEMPT_OUTCOME_CANCELLED


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
    assert running.image_outcome == runs_pb2.IMAGE_OUTCOME_REUSED and not running.HasField("image")
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
        "TOWLINE_ARTIFACTS": "/towline/artifacts",
        "TOWLINE_ATTEMPT": "1",
        "TOWLINE_CONFIG": "/towline/config.json",
        "TOWLINE_EPOCH": "7",
        "TOWLINE_INPUTS": "/towline/inputs",
        "TOWLINE_INPUTS_FILE": "/towline/inputs.json",
        "TOWLINE_JOB": spec.job_version,
        "TOWLINE_OUTPUTS": "/towline/outputs",
        "TOWLINE_QUEUE": "queues/default",
        "TOWLINE_RUN": spec.run,
        "TOWLINE_RUN_NAME": "a run",
        "TOWLINE_STOP_FILE": "/towline/stop.json",
        "TOWLINE_STOP_SIGNAL": "SIGTERM",
        "TOWLINE_SUMMARY": "/towline/results/summary.json",
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
open(os.environ["TOWLINE_SUMMARY"], "w"); os.mkdir(os.environ["TOWLINE_ARTIFACTS"] + "/0")
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
    assert found["Config"]["Labels"]["towline.job"] == spec.job_version
    await peer.cancel(grant, timedelta(0))
    await peer.finish_of(grant, within=90)


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
