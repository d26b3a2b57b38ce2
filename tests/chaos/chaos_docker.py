"""The Docker Engine, its shims and its containers killed under the agent's hands."""

import os
import signal
from pathlib import Path
from typing import Final

from towline.v1 import runs_pb2
from towline_testing.chaos_engine import ContainerWatch, PrivateEngine, processes_of
from towline_testing.chaos_ground import soon
from towline_testing.chaos_world import SUCCEEDED, TERMINAL, World

_MANY: Final = 1_000_000


def dockerd_killed_and_its_containers_with_it(world: World) -> None:
    """dockerd dies and ends what it finds when it is back: the platform's fault, tried again."""
    world.begin(lost=15)
    run = world.one(lines=_MANY, retries=soon())
    world.running(run)
    world.engine.kill()
    world.killed.append("dockerd -9")
    world.engine.start()
    world.until(lambda: world.has_attempts(run, 2))
    world.running(run)
    world.touch(run)
    (ended,) = world.ended(run, state=SUCCEEDED)
    assert ended.attempts[0].failure.cause == runs_pb2.FAILURE_CAUSE_NODE_LOST, ended
    world.seen.append("NODE_LOST, tried again")


def dockerd_killed_and_its_containers_live(world: World) -> None:
    """dockerd dies with live-restore: the container goes on, one attempt, a log without a gap."""
    _with_live_restore(world)
    world.begin(lost=15)
    run = world.one(lines=_MANY)
    world.running(run)
    container = world.container(run)
    world.engine.kill()
    world.killed.append("dockerd -9, live-restore")
    world.engine.start(live_restore=True)
    before = len(world.log(run))
    world.until(lambda: len(world.log(run)) > before)
    assert world.container(run) == container
    world.touch(run)
    (ended,) = world.ended(run, state=SUCCEEDED)
    assert len(ended.attempts) == 1
    lines = world.log(run)
    assert lines == [str(number) for number in range(len(lines))]
    world.seen.append(f"same container, {len(lines)} lines without a gap")


def dockerd_and_agent_killed_past_the_lease(world: World) -> None:
    """Neither agent nor engine is there to stop a container: the watchdog does, through the kernel."""
    _with_live_restore(world)
    other = PrivateEngine(world.folder / "o")
    world.at_the_end(other.close)
    other.start()
    other.make_image()
    watch = ContainerWatch(other)
    world.at_the_end(watch.close)
    world.watches.append(watch)
    world.begin(lost=5)
    run = world.one(lines=_MANY)
    world.running(run)
    world.agent("b", engine=other)
    world.agents["a"].kill()
    world.engine.kill()
    world.killed.append("agent -9 and dockerd -9")
    world.until(lambda: world.has_attempts(run, 2))
    world.running(run)
    other.docker("exec", other.containers(run=run)[0], "touch", "/tmp/end")
    world.ended(run, state=SUCCEEDED)
    world.engine.start(live_restore=True)
    world.agent("a")
    world.until(lambda: not other.leftovers(agents=1))
    world.seen.append("killed by pid in time, b ran it on another engine")


def dockerd_restarted_while_runs_begin(world: World) -> None:
    """dockerd goes away as containers are made and started: each run ends, with one result."""
    world.begin(slots=4, lost=15)
    runs = world.submit("count", 6, lines=10, retries=soon())
    world.until(world.engine.containers)
    world.engine.kill()
    world.killed.append("dockerd -9 among starts")
    world.engine.start()
    ended = world.ended(*runs, state=SUCCEEDED, within=60)
    # A volume whose container was not made any more is nobody's.
    world.sweep()
    world.seen.append(f"6 runs, {sum(len(run.attempts) for run in ended)} attempts")


def shim_killed(world: World) -> None:
    """The shim between engine and container is killed: the run ends, with one result."""
    world.begin()
    run = world.one(lines=_MANY)
    world.running(run)
    container = world.container(run)
    for pid in processes_of(world.engine.folder):
        if container.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
            os.kill(pid, signal.SIGKILL)
    world.killed.append("containerd-shim -9")
    world.until(lambda: world.get(run).state in TERMINAL or world.has_attempts(run, 2))
    (first, *more) = world.attempts(run)
    if world.get(run).state not in TERMINAL:
        world.cancel(run)
    world.ended(run)
    cause = runs_pb2.FailureCause.Name(first.failure.cause).removeprefix("FAILURE_CAUSE_")
    world.seen.append(f"{cause}, {1 + len(more)} attempts")


def container_removed_by_hand(world: World) -> None:
    """Somebody removes a run's container: the run ends or is tried again, and says why."""
    world.begin()
    run = world.one(lines=_MANY, retries=soon())
    world.running(run)
    world.engine.docker("rm", "--force", "--volumes", world.container(run))
    world.killed.append("container, docker rm --force")
    world.until(lambda: world.get(run).state in TERMINAL or world.has_attempts(run, 2))
    cause = runs_pb2.FailureCause.Name(world.attempts(run)[0].failure.cause)
    if world.get(run).state not in TERMINAL:
        world.running(run)
        world.touch(run)
    world.ended(run)
    world.seen.append(f"{cause.removeprefix('FAILURE_CAUSE_')}, {len(world.attempts(run))} attempts")


def container_removed_while_its_agent_is_dead(world: World) -> None:
    """A container is gone when its agent is back: the attempt ends, and is not executed again."""
    world.begin(lost=15)
    run = world.one(lines=_MANY, retries=soon())
    world.running(run)
    container = world.container(run)
    world.agents["a"].kill()
    world.engine.docker("rm", "--force", "--volumes", container)
    world.killed.append("agent -9, container, docker rm --force")
    world.agent("a")
    world.until(lambda: world.has_attempts(run, 2))
    world.running(run)
    world.touch(run)
    (ended,) = world.ended(run, state=SUCCEEDED)
    failure = ended.attempts[0].failure
    assert failure.cause == runs_pb2.FAILURE_CAUSE_CONTROL_PLANE, ended
    assert "removed from the engine" in failure.message, ended
    world.seen.append("CONTROL_PLANE, each attempt executed once")


def _with_live_restore(world: World) -> None:
    """Have an engine whose containers outlive it, until the scenario ends."""
    world.engine.stop()
    world.engine.start(live_restore=True)

    def back() -> None:
        if world.engine.process is not None and world.engine.process.poll() is None:
            world.engine.clear()
            world.engine.stop()

    world.at_the_end(back)
