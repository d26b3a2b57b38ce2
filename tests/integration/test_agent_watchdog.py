"""The watchdog ends containers whose time is over, whatever has become of agent and engine."""

import asyncio
import os
import signal
import socket
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from towline.v1 import runs_pb2
from towline_agent.watchdog.starting import ensure_running
from towline_testing.agent import IGNORES_SIGTERM, AgentProcess, python_spec
from towline_testing.engine import EngineProxy, containers, docker, inspect
from towline_testing.lease_peer import LeasePeer
from towline_testing.waiting import eventually, eventually_async
from towline_testing.watchdogs import Renewer, Watched, watched

pytestmark = pytest.mark.docker

SLEEPS = "import time\nprint('ready')\nwhile True: time.sleep(0.1); print('tick')"
ENDS_ON_USR1 = """
import signal, sys, time
signal.signal(signal.SIGUSR1, lambda *_: sys.exit(7))
print("ready")
while True: time.sleep(60)
"""
MakeWatched = Callable[..., Watched]


@pytest.fixture
def make() -> Iterator[MakeWatched]:
    made: list[Watched] = []

    def make(*arguments: str, started: bool = True) -> Watched:
        made.append(watched(*arguments, started=started))
        return made[-1]

    yield make
    for one in made:
        docker("rm", "--force", "--volumes", one.id)


@pytest.fixture
def renewer(tmp_path: Path) -> Iterator[Renewer]:
    renewer = Renewer(tmp_path / "a")
    yield renewer
    renewer.kill()
    (renewer.folder / "deadlines.json").unlink(missing_ok=True)
    if pid := renewer.watchdog:
        os.kill(pid, signal.SIGTERM)
    renewer.wait_for_the_watchdog_to_leave()


def test_a_container_ends_although_its_agent_was_killed(make: MakeWatched, renewer: Renewer) -> None:
    stubborn = make(IGNORES_SIGTERM)
    renewer.start([stubborn], lasts_s=1, grace_s=2)
    renewer.kill()
    eventually(lambda: stubborn.exit_code is not None, within=20)
    assert stubborn.exit_code == 137
    assert stubborn.log.count("no") == 1  # asked first, once
    note = renewer.expired(stubborn)
    assert note and note.reason == "LEASE_EXPIRED"
    renewer.wait_for_the_watchdog_to_leave()
    assert renewer.log.index("SIGTERM to") < renewer.log.index("SIGKILL to") < renewer.log.index("leaving:")


def test_the_stop_signal_is_the_queues(make: MakeWatched, renewer: Renewer) -> None:
    polite = make(ENDS_ON_USR1, "SIGUSR1")
    renewer.start([polite], grace_s=60)
    renewer.kill()
    eventually(lambda: polite.exit_code is not None, within=20)
    assert polite.exit_code == 7
    assert renewer.expired(polite)
    renewer.wait_for_the_watchdog_to_leave()


def test_renewals_are_respected(make: MakeWatched, renewer: Renewer) -> None:
    well = make(SLEEPS)
    renewer.start([well], lasts_s=2, grace_s=0.5)
    ticks = well.log.count("tick")
    eventually(lambda: well.log.count("tick") > ticks + 50, within=30)  # twice as long, and more
    assert renewer.expired(well) is None
    assert "SIGTERM" not in renewer.log


def test_a_frozen_agent_renews_nothing(make: MakeWatched, renewer: Renewer) -> None:
    container = make(SLEEPS)
    renewer.start([container], grace_s=0.5)
    renewer.signal(signal.SIGSTOP)
    eventually(lambda: container.exit_code is not None, within=20)
    assert renewer.expired(container)
    assert renewer.watchdog  # an agent is there still


def test_a_container_made_by_an_agent_that_wakes_too_late(make: MakeWatched, renewer: Renewer) -> None:
    late = make(SLEEPS, started=False)
    renewer.start([late], lasts_s=0.5, grace_s=0.5)
    renewer.signal(signal.SIGSTOP)
    eventually(lambda: "does not run" in renewer.log, within=20)
    assert renewer.expired(late) is None
    docker("start", late.id)
    eventually(lambda: late.exit_code == 137, within=20)
    assert renewer.expired(late)


@pytest.mark.parametrize("hangs", [False, True])
async def test_without_an_engine_processes_are_killed_by_pid(
    make: MakeWatched, tmp_path: Path, hangs: bool
) -> None:
    proxy = EngineProxy(tmp_path / "engine.sock")
    await proxy.start()
    renewer = Renewer(tmp_path / "a", proxy.url)
    deaf = socket.socket(socket.AF_UNIX)
    stubborn, polite, other = make(IGNORES_SIGTERM), make(ENDS_ON_USR1, "SIGUSR1"), make(SLEEPS)
    try:
        await asyncio.to_thread(renewer.start, [stubborn, polite], lasts_s=1, grace_s=2)
        await proxy.stop()
        if hangs:
            deaf.bind(str(tmp_path / "engine.sock"))
            deaf.listen()
        renewer.kill()

        async def ended() -> bool:
            codes = [await asyncio.to_thread(lambda one=one: one.exit_code) for one in (stubborn, polite)]
            return None not in codes

        await eventually_async(ended, within=20)
        assert (stubborn.exit_code, polite.exit_code, other.exit_code) == (137, 7, None)
        assert stubborn.log.count("no") == 1
        assert renewer.expired(stubborn) and renewer.expired(polite)
        await asyncio.to_thread(renewer.wait_for_the_watchdog_to_leave)
        why = "the engine has not answered within" if hangs else "the engine does not answer"
        assert f" by pid: LEASE_EXPIRED; {why}" in renewer.log
    finally:
        renewer.kill()
        deaf.close()


@pytest.mark.parametrize("fault", [b"", b"{", None])
def test_a_lost_file_extends_nothing(make: MakeWatched, renewer: Renewer, fault: bytes | None) -> None:
    container = make(SLEEPS)
    renewer.start([container], grace_s=0.5)
    renewer.kill()
    file = renewer.folder / "deadlines.json"
    if fault is None:
        file.unlink()
    else:
        file.write_bytes(fault)
    eventually(lambda: container.exit_code is not None, within=20)
    assert "stay in force" in renewer.log


def test_without_any_deadline_nothing_is_touched(make: MakeWatched, renewer: Renewer) -> None:
    bystander = make(SLEEPS)
    renewer.folder.mkdir()
    (renewer.folder / "deadlines.json").write_bytes(b"damaged")
    first = ensure_running(renewer.folder, "unix:///var/run/docker.sock")
    assert first
    renewer.wait_for_the_watchdog_to_leave()  # as no agent runs
    assert bystander.exit_code is None


def test_it_is_a_session_of_its_own_and_no_terminal_ends_it(renewer: Renewer) -> None:
    pid = renewer.start([])
    assert pid == os.getsid(pid) == os.getpgid(pid)
    assert len(list(Path(f"/proc/{pid}/fd").iterdir())) == 4  # in, out, error, its lock
    for number in (signal.SIGHUP, signal.SIGINT):
        os.kill(pid, number)
    assert ensure_running(renewer.folder, "unix:///var/run/docker.sock") == pid
    renewer.kill()
    renewer.wait_for_the_watchdog_to_leave()


def test_one_of_another_version_is_relieved(make: MakeWatched, renewer: Renewer) -> None:
    stubborn = make(IGNORES_SIGTERM)
    old = renewer.start([stubborn], lasts_s=1, grace_s=6)
    lock = renewer.folder / "watchdog.lock"
    renewer.kill()
    eventually(lambda: renewer.expired(stubborn), within=20)
    lock.write_text(lock.read_text().replace('"version": "', '"version": "older than '))
    new = ensure_running(renewer.folder, "unix:///var/run/docker.sock")
    assert new != old and renewer.watchdog == new
    assert "leaving: asked to" in renewer.log
    eventually(lambda: stubborn.exit_code == 137, within=20)
    assert stubborn.log.count("no") == 1  # what the old one has done is not done again


def test_a_container_that_has_ended_is_not_called_expired(make: MakeWatched, renewer: Renewer) -> None:
    done = make("print('ready')")
    renewer.start([done], lasts_s=0.5, grace_s=0.5)
    renewer.signal(signal.SIGSTOP)
    eventually(lambda: "does not run" in renewer.log, within=20)
    assert renewer.expired(done) is None and done.exit_code == 0


def test_nobody_watches_for_what_ended_by_itself_while_no_agent_ran(
    make: MakeWatched, renewer: Renewer
) -> None:
    done = make("import time; print('ready'); time.sleep(1)")
    renewer.start([done], lasts_s=3600)
    renewer.kill()
    renewer.wait_for_the_watchdog_to_leave()  # an hour early
    assert renewer.expired(done) is None and done.exit_code == 0


async def test_a_real_agent_has_one(peer: LeasePeer, agent: AgentProcess) -> None:
    peer.ttl = timedelta(seconds=4)
    grant = await peer.grant(python_spec(IGNORES_SIGTERM, grace_s=60, network="none"))
    await peer.until(lambda: peer.output(grant) == b"ready\n", within=30)
    (container,) = containers(towline_run=grant.spec.run)
    agent.kill()
    await peer.until(lambda: not inspect(container)["State"]["Running"], within=20)
    agent.start()
    result = await peer.finish_of(grant, within=20)
    assert result.failure.cause == runs_pb2.FAILURE_CAUSE_NODE_LOST and result.exit_code == 137
    assert peer.output(grant) == b"ready\nno\n"
