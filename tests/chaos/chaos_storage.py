"""PostgreSQL, disks, clocks and the registry taken away."""

import os
import signal
import subprocess
import threading
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Final

from towline.errors import TowlineError
from towline.v1 import runs_pb2
from towline_testing.chaos_ground import soon
from towline_testing.chaos_world import SUCCEEDED, World

_MANY: Final = 1_000_000
_FAKETIME: Final = "/usr/lib/*/faketime/libfaketime.so.1"


def postgres_crashes(world: World) -> None:
    """PostgreSQL dies without a word and recovers: what it had acknowledged is there."""
    world.begin(slots=4)
    runs = world.submit("count", 4, lines=60)
    world.running(*runs)
    world.postgres.stop("immediate")
    world.killed.append("PostgreSQL, immediate")
    world.postgres.start()
    for ended in world.ended(*runs, state=SUCCEEDED):
        assert len(ended.attempts) == 1
    world.seen.append("4 runs, 1 attempt each")


def postgres_away_for_longer_than_the_leases(world: World) -> None:
    """No renewal can be kept for longer than leases hold: agents stop their runs, the reaper expires none."""
    world.begin(slots=3, lost=5)
    runs = world.submit("count", 3, lines=_MANY)
    world.running(*runs)
    world.postgres.stop("immediate")
    world.killed.append("PostgreSQL, for 7 s with leases of 5 s")
    world.lasting(7)
    world.postgres.start()
    world.until(lambda: all(world.has_attempts(run, 2) for run in runs), within=30)
    first = [world.attempts(run)[0] for run in runs]
    assert all(attempt.failure.cause == runs_pb2.FAILURE_CAUSE_NODE_LOST for attempt in first), first
    assert not any(attempt.outcome == runs_pb2.ATTEMPT_OUTCOME_LOST for attempt in first), "mass expiry"
    world.let_end(*runs)
    world.seen.append("told by the agent, not expired; all ran again")


def database_connections_cut(world: World) -> None:
    """Every connection to PostgreSQL is ended, again and again, under load: everything ends once."""
    world.begin(slots=4, lost=10)
    runs: list[str] = []
    stop = threading.Event()

    def cut() -> None:
        while not stop.wait(0.4):
            world.truth.cut_connections()

    cutting = threading.Thread(target=cut)
    cutting.start()
    try:
        for _ in range(10):
            with suppress(TowlineError):
                runs.append(world.one(lines=10))
        world.until(lambda: all(world.get(run).state == SUCCEEDED for run in runs[:5]), within=30)
    finally:
        stop.set()
        cutting.join()
    world.killed.append("database connections, each 0.4 s")
    world.ended(*runs, state=SUCCEEDED, within=30)
    world.seen.append(f"{len(runs)} runs succeeded")


def disk_of_the_agent_is_full(world: World) -> None:
    """An agent that cannot write takes no run and keeps the ones it has; with room again it goes on."""
    data = world.data_of("a")
    data.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", data], check=True)
    world.at_the_end(lambda: subprocess.run(["umount", "--lazy", data], check=False))
    world.begin(lost=4)
    first = world.one(lines=_MANY, retries=soon())
    world.running(first)
    ballast = data / "ballast"
    with suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    world.killed.append("agent's disk, full")
    second = world.one(lines=_MANY, retries=soon())
    log = world.agents["a"].log_file
    world.until(lambda: f"{second} is refused" in log.read_text())
    world.until(lambda: world.get(second).state == runs_pb2.RUN_STATE_QUEUED)
    beats = world.log(first)
    world.until(lambda: len(world.log(first)) > len(beats) + 100)
    assert len(world.attempts(first)) == 1
    ballast.unlink()
    world.let_end(first, second, within=40)
    world.seen.append("grant refused, the other ran on past its lease's length; with room both ended")


def registry_killed_while_outputs_are_kept(world: World) -> None:
    """The registry is away when a run ends: the result waits for it, within the lease, and is whole."""
    world.begin(lost=20)
    run = world.one("output")
    world.running(run)
    world.ground.registry.kill()
    world.killed.append("registry -9")
    world.touch(run)
    world.lasting(1)
    world.ground.registry.start()
    (ended,) = world.ended(run, state=SUCCEEDED)
    assert ended.outputs
    assert len(ended.attempts) == 1
    world.seen.append("outputs kept, 1 attempt")


def wall_clocks_jump(world: World) -> None:
    """The wall clocks of agent and queue service jump by hours, both ways: leases do not notice."""
    clock = world.folder / "clock"
    clock.write_text("+0\n")
    found = next(iter(Path("/").glob(_FAKETIME.lstrip("/"))), None)
    assert found, "libfaketime is not installed"
    faked = {
        "LD_PRELOAD": str(found),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    world.queue(**faked)
    world.make_queue()
    world.agent("a", **faked)
    runs = world.submit("count", 2, lines=_MANY)
    world.running(*runs)
    for jump in ("+5h\n", "-7h\n", "+0\n"):
        clock.write_text(jump)
        lines = len(world.log(runs[0]))
        world.until(lambda lines=lines: len(world.log(runs[0])) > lines + 15)
    world.killed.append("wall clock, +5 h, -7 h")
    for run in runs:
        world.touch(run)
    for ended in world.ended(*runs, state=SUCCEEDED):
        assert len(ended.attempts) == 1
    world.seen.append("2 runs, 1 attempt each")


def nobody_takes_a_run_in_time(world: World) -> None:
    """A run waits for longer than it may while the service is killed: FAILED with TIMEOUT, once."""
    world.begin(agents=0)
    limits = runs_pb2.TimeLimits()
    limits.max_wait.FromTimedelta(timedelta(seconds=2))
    run = world.one(limits=limits)
    world.queues["queue"].kill()
    world.killed.append("queue -9")
    world.lasting(2)
    world.queue()
    (ended,) = world.ended(run, state=runs_pb2.RUN_STATE_FAILED)
    assert ended.failure.cause == runs_pb2.FAILURE_CAUSE_TIMEOUT
    world.seen.append("FAILED with TIMEOUT, no attempt")


def everything_killed_at_once(world: World) -> None:
    """Agent, watchdog, queue service, registry, PostgreSQL and dockerd are killed together and come back."""
    world.begin(slots=3, lost=12)
    runs = world.submit("count", 5, lines=60, retries=soon())
    world.running(*runs[:3])
    world.agents["a"].kill()
    for pid in world.watchdogs():
        world.kill(pid)
    world.queues["queue"].kill()
    world.ground.registry.kill()
    os.kill(world.postgres.pid, signal.SIGKILL)
    world.engine.kill()
    world.killed.append("agent, watchdog, queue, registry, PostgreSQL, dockerd: all -9")
    world.engine.start()
    world.ground.start_postgres()
    world.ground.registry.start()
    world.queue()
    world.agent("a", slots=3)
    ended = world.ended(*runs, state=SUCCEEDED, within=60)
    world.seen.append(f"5 runs, {sum(len(run.attempts) for run in ended)} attempts")
