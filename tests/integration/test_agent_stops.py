"""How an attempt is told to stop, and what its result is then: by whom, why, before or after its own end."""

import json
import signal
from datetime import timedelta
from pathlib import Path

import pytest

from towline.v1 import leases_pb2, runs_pb2
from towline_agent.deadlines import boottime
from towline_testing.agent import IGNORES_SIGTERM, AgentProcess, python_spec
from towline_testing.engine import EngineProxy, containers, inspect, remove_containers
from towline_testing.lease_peer import LeasePeer, duration

pytestmark = pytest.mark.docker

RUNNING = runs_pb2.RUN_STATE_RUNNING
PREEMPTED = leases_pb2.STOP_REASON_PREEMPTED
SLEEPS = "import time; print('ready', flush=True); time.sleep(600)"


async def test_the_stop_file_is_there_before_the_signal_of_the_queue(
    peer: LeasePeer, agent: AgentProcess
) -> None:
    program = """
import os, signal, sys
def stop(number, _):
    print(signal.Signals(number).name, open(os.environ["TOWLINE_STOP_FILE"]).read(), flush=True)
    sys.exit(3)
signal.signal(getattr(signal, os.environ["TOWLINE_STOP_SIGNAL"]), stop)
print("ready", os.path.exists(os.environ["TOWLINE_STOP_FILE"]), flush=True)
while True: signal.pause()
"""
    spec = python_spec(program, read_only_root=True, user="1234:99")
    spec.stop_signal = "SIGUSR1"
    grant = await peer.grant(spec, epoch=4)
    await peer.until(lambda: peer.output(grant) == b"ready False\n", within=30)
    await peer.cancel(grant, timedelta(seconds=30), PREEMPTED)
    result = await peer.finish_of(grant)
    name, _, written = peer.output(grant).decode().splitlines()[1].partition(" ")
    assert name == "SIGUSR1"
    assert json.loads(written) == {"reason": "PREEMPTED", "epoch": 4, "grace_seconds": 30.0}
    assert result.failure.cause == runs_pb2.FAILURE_CAUSE_PREEMPTED and result.exit_code == 3


async def test_a_program_that_ends_with_the_stop_file_before_the_engine_has_answered(
    peer: LeasePeer, tmp_path: Path
) -> None:
    program = """
import os, time
print("ready", flush=True)
while not os.path.exists(os.environ["TOWLINE_STOP_FILE"]): time.sleep(0.01)
"""
    engine = EngineProxy(tmp_path / "docker.sock")
    await engine.start()
    settings = {"TOWLINE_AGENT_QUEUE_ADDRESS": peer.address, "TOWLINE_AGENT_DOCKER_HOST": engine.url}
    agent = AgentProcess(tmp_path / "a", settings)
    agent.start()
    try:
        await peer.until(lambda: any(beat.free_slots for beat in peer.beats))
        grant = await peer.grant(python_spec(program))
        await peer.until(lambda: peer.output(grant) == b"ready\n", within=30)
        (container,) = containers(towline_run=grant.spec.run)
        engine.silent = True
        await peer.cancel(grant, timedelta(seconds=30), PREEMPTED)
        await peer.until(lambda: not inspect(container)["State"]["Running"], within=15)
        await engine.stop()
        await engine.start()
        result = await peer.finish_of(grant)
        assert result.failure.cause == runs_pb2.FAILURE_CAUSE_PREEMPTED and result.exit_code == 0
    finally:
        agent.kill()
        await engine.stop()
        remove_containers(towline_agent=f"agents/{agent.name}")


async def test_a_cancel_replaces_a_preemption_and_its_grace(peer: LeasePeer, agent: AgentProcess) -> None:
    grant = await peer.grant(python_spec(IGNORES_SIGTERM))
    await peer.until(lambda: peer.output(grant) == b"ready\n", within=30)
    await peer.cancel(grant, timedelta(seconds=60), PREEMPTED)
    await peer.until(lambda: peer.output(grant) == b"ready\nno\n")
    await peer.cancel(grant, timedelta(seconds=0.5))
    result = await peer.finish_of(grant)
    assert result.outcome == runs_pb2.ATTEMPT_OUTCOME_CANCELLED and result.exit_code == 137
    assert peer.output(grant) == b"ready\nno\n", "the signal is sent once"


async def test_a_time_limit_goes_on_over_restarts(peer: LeasePeer, agent: AgentProcess) -> None:
    spec = python_spec(SLEEPS)
    spec.limits.max_runtime.CopyFrom(duration(timedelta(seconds=8)))
    grant = await peer.grant(spec)
    await peer.until(lambda: peer.output(grant) == b"ready\n", within=30)
    (before,) = await peer.until(agent.deadlines)
    assert before["reason"] == "TIMEOUT"
    agent.kill()
    agent.start()
    await peer.until(lambda: len(peer.hellos) == 2, within=20)
    if entries := agent.deadlines():
        assert entries[0]["stop_at"] in (before["stop_at"], entries[0]["kill_at"])
    result = await peer.finish_of(grant)
    assert result.failure.cause == runs_pb2.FAILURE_CAUSE_TIMEOUT and result.exit_code == 143
    assert "limit of 8s" in result.failure.message and "max_runtime" in result.failure.message


async def test_a_stop_that_a_killed_agent_had_begun_counts(peer: LeasePeer, agent: AgentProcess) -> None:
    grant = await peer.grant(python_spec(IGNORES_SIGTERM))
    await peer.until(lambda: peer.output(grant) == b"ready\n", within=30)
    await peer.cancel(grant, timedelta(seconds=2), PREEMPTED)
    await peer.until(lambda: peer.output(grant) == b"ready\nno\n")
    agent.kill()
    agent.start()
    result = await peer.finish_of(grant)
    assert result.failure.cause == runs_pb2.FAILURE_CAUSE_PREEMPTED and result.exit_code == 137


async def test_a_lease_that_expires_while_no_agent_is_there(peer: LeasePeer, agent: AgentProcess) -> None:
    peer.ttl = timedelta(seconds=6)
    grant = await peer.grant(python_spec(IGNORES_SIGTERM, grace_s=60))
    await peer.until(lambda: peer.output(grant) == b"ready\n", within=30)
    agent.kill()
    expired = agent.attempt(grant) / "expired"
    await peer.until(expired.exists, within=15)
    agent.start()
    result = await peer.finish_of(grant)
    assert result.failure.cause == runs_pb2.FAILURE_CAUSE_NODE_LOST
    await peer.until(lambda: not containers(towline_run=grant.spec.run))


async def test_what_ended_by_itself_before_its_lease_expired_counts(
    peer: LeasePeer, agent: AgentProcess
) -> None:
    peer.ttl = timedelta(seconds=6)
    program = "import time; print('ready', flush=True); time.sleep(1); raise SystemExit(6)"
    grant = await peer.grant(python_spec(program))
    await peer.until(lambda: peer.output(grant) == b"ready\n", within=30)
    agent.kill()
    (entry,) = agent.deadlines()
    await peer.until(lambda: boottime() > entry["kill_at"] + 1, within=15)
    agent.start()
    result = await peer.finish_of(grant)
    assert result.failure.cause == runs_pb2.FAILURE_CAUSE_USER_ERROR and result.exit_code == 6


async def test_a_lease_that_nobody_noted_the_time_of_is_over(peer: LeasePeer, agent: AgentProcess) -> None:
    grant = await peer.grant(python_spec(SLEEPS))
    await peer.until(lambda: peer.output(grant) == b"ready\n", within=30)
    agent.kill()
    (agent.folder / "deadlines.json").write_text("{")
    agent.start()
    result = await peer.finish_of(grant)
    assert result.failure.cause == runs_pb2.FAILURE_CAUSE_NODE_LOST and result.exit_code == 143


async def test_what_the_watchdog_ends_while_the_agent_is_frozen(peer: LeasePeer, agent: AgentProcess) -> None:
    peer.ttl = timedelta(seconds=6)
    grant = await peer.grant(python_spec(IGNORES_SIGTERM, grace_s=60))
    await peer.until(lambda: peer.output(grant) == b"ready\n", within=30)
    (container,) = containers(towline_run=grant.spec.run)
    assert agent.process
    agent.process.send_signal(signal.SIGSTOP)
    try:
        await peer.until(lambda: not inspect(container)["State"]["Running"], within=15)
    finally:
        agent.process.send_signal(signal.SIGCONT)
    result = await peer.finish_of(grant)
    assert result.failure.cause == runs_pb2.FAILURE_CAUSE_NODE_LOST and result.exit_code == 137
