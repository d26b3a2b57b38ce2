"""Connections cut: short, long, one way, late, and a network namespace whose link goes down."""

import os
import subprocess
from typing import Final

from towline_testing.chaos_wire import Wire
from towline_testing.chaos_world import CANCELLED, RUNNING, SUCCEEDED, World

_MANY: Final = 1_000_000


def partition_short(world: World) -> None:
    """An agent is cut off for less than its lease: UNREACHABLE meanwhile, then as if nothing had been."""
    run, wire = _running_behind_a_wire(world)
    wire.cut()
    world.killed.append("network, both ways, 2.5 s")
    world.until(lambda: world.get(run).unreachable, within=4)
    world.lasting(1.2)
    wire.mend()
    world.until(lambda: not world.get(run).unreachable)
    _ends(world, run, attempts=1)
    world.seen.append("UNREACHABLE, then 1 attempt to the end")


def partition_long(world: World) -> None:
    """An agent is cut off past its lease: it ends its container by itself before another may begin."""
    run, wire = _running_behind_a_wire(world, lost=4)
    world.agent("b")
    wire.cut()
    world.killed.append("network, both ways, past lost_after")
    world.until(lambda: world.has_attempts(run, 2))
    world.running(run)
    wire.mend()
    _ends(world, run, attempts=2)
    world.seen.append("a stopped in time, b ran it")


def one_way_to_the_queue_is_cut(world: World) -> None:
    """Nothing an agent says arrives: the queue gives it up, and the agent has stopped by then."""
    run, wire = _running_behind_a_wire(world, lost=4)
    world.agent("b")
    wire.cut(down=False)
    world.killed.append("network, agent → queue")
    world.until(lambda: world.has_attempts(run, 2))
    world.running(run)
    wire.mend()
    _ends(world, run, attempts=2)
    world.seen.append("a stopped in time, b ran it")


def one_way_to_the_agent_is_cut(world: World) -> None:
    """Heartbeats arrive, renewals do not: the agent stops, for it counts only what it has heard."""
    run, wire = _running_behind_a_wire(world, lost=4)
    world.agent("b")
    wire.cut(up=False)
    world.killed.append("network, queue → agent")
    world.until(lambda: not world.engine.containers(run=run, running=True) or world.has_attempts(run, 2))
    wire.mend()
    world.until(lambda: world.has_attempts(run, 2))
    world.running(run)
    _ends(world, run, attempts=2)
    world.seen.append("a stopped by itself, the run went on")


def grants_come_late(world: World) -> None:
    """Grants arrive after they were taken back for want of an answer: nothing of them may run."""
    world.begin(agents=0, lost=8)
    wire = world.wire()
    world.agent("a", slots=2, to=wire.address)
    world.until(lambda: world.truth.query("SELECT count(*) FROM queue.sessions") == 1)
    wire.hold_at(lambda said: bool(said.grants))
    runs = world.submit("count", 2, lines=40)
    assert wire.reached.wait(10)
    world.killed.append("grants held back for 4.5 s")
    world.agent("b", slots=2)
    world.lasting(4.5)
    wire.mend()
    world.ended(*runs, state=SUCCEEDED)
    leases = [len(world.attempts(run)) for run in runs]
    world.seen.append(f"{leases} leases, no two containers at once")


def slow_agent(world: World) -> None:
    """An agent that reads in fits and starts, beside a quick one: everything ends, nothing twice."""
    world.begin(agents=0, lost=8)
    wire = world.wire()
    world.agent("a", slots=4, to=wire.address)
    world.agent("b", slots=1)
    runs = world.submit("count", 10, lines=10)
    for _ in range(6):
        wire.cut(up=False)
        world.lasting(0.7)
        wire.mend()
        world.lasting(0.3)
    world.killed.append("queue → agent, 0.7 s in each second")
    world.ended(*runs, state=SUCCEEDED, within=40)
    world.seen.append("10 runs succeeded")


def cancel_while_the_agent_is_away(world: World) -> None:
    """A cancel is asked for while nobody can be told: it is told when the agent is back."""
    run, wire = _running_behind_a_wire(world, lost=10)
    wire.cut()
    world.killed.append("network, both ways")
    world.until(lambda: world.get(run).unreachable)
    world.cancel(run)
    assert world.get(run).state == RUNNING
    wire.mend()
    (ended,) = world.ended(run, state=CANCELLED)
    assert len(ended.attempts) == 1
    world.seen.append("CANCELLED after the reconnect")


def link_of_a_namespace_goes_down(world: World) -> None:
    """An agent in a network namespace of its own loses its link past the lease, and gets it back."""
    name, subnet = f"tw{os.getpid() % 100000}", f"10.199.{os.getpid() % 250}"
    ip = _ip
    ip("netns", "add", name)
    world.at_the_end(lambda: ip("netns", "del", name))
    ip("link", "add", f"{name}h", "type", "veth", "peer", "name", f"{name}c")
    world.at_the_end(lambda: ip("link", "del", f"{name}h"))
    ip("link", "set", f"{name}c", "netns", name)
    ip("addr", "add", f"{subnet}.1/24", "dev", f"{name}h")
    ip("link", "set", f"{name}h", "up")
    for command in (("addr", "add", f"{subnet}.2/24", "dev", f"{name}c"), ("link", "set", f"{name}c", "up")):
        ip("-n", name, *command)
    ip("-n", name, "link", "set", "lo", "up")
    world.queue(host="0.0.0.0")
    world.make_queue(lost=4)
    port = world.address().rpartition(":")[2]
    world.agent("a", to=f"{subnet}.1:{port}", prefix=("ip", "netns", "exec", name))
    run = world.one(lines=_MANY)
    world.running(run)
    world.agent("b")
    ip("link", "set", f"{name}h", "down")
    world.killed.append("link of a's namespace")
    world.until(lambda: world.has_attempts(run, 2))
    world.running(run)
    ip("link", "set", f"{name}h", "up")
    world.until(lambda: not any((world.data_of("a") / "attempts").iterdir()), within=30)
    _ends(world, run, attempts=2)
    world.seen.append("a stopped in time, b ran it, a came back")


def _running_behind_a_wire(world: World, **policy: float) -> tuple[str, Wire]:
    """Have a run in the hands of agent a, whose connection can be cut."""
    world.begin(agents=0, **policy)
    wire = world.wire()
    world.agent("a", to=wire.address)
    run = world.one(lines=_MANY)
    world.running(run)
    return run, wire


def _ends(world: World, run: str, *, attempts: int) -> None:
    world.touch(run)
    (ended,) = world.ended(run, state=SUCCEEDED)
    assert len(ended.attempts) == attempts, ended


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0 or "del" in arguments, f"ip {' '.join(arguments)}: {done.stderr}"
