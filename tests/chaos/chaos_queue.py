"""The queue service killed at each step of a lease, replies lost, and requests that race."""

import threading
import time
from typing import Final

from towline.v1 import runs_pb2
from towline_testing.chaos_world import CANCELLED, RUNNING, SUCCEEDED, TERMINAL, World
from towline_testing.history import Submitted
from towline_testing.jobs import submission

_MANY: Final = 1_000_000


def queue_killed_and_back(world: World) -> None:
    """The queue service is away while a container ends: the result waits, and is committed once."""
    world.begin()
    run = world.one(lines=_MANY)
    world.running(run)
    world.queues["queue"].kill()
    world.killed.append("queue -9")
    world.touch(run)
    world.queue()
    (ended,) = world.ended(run, state=SUCCEEDED)
    assert len(ended.attempts) == 1
    world.seen.append("1 attempt")


def queue_killed_between_commit_and_grant(world: World) -> None:
    """A lease is committed, the service dies before its agent hears of it: the run is not lost."""
    world.begin(agents=0)
    wire = world.wire()
    world.agent("a", to=wire.address)
    wire.hold_at(lambda said: bool(said.grants))
    run = world.one(lines=5)
    assert wire.reached.wait(20)
    assert world.has_lease(run)
    world.queues["queue"].kill()
    world.killed.append("queue -9 at Grant")
    wire.mend()
    wire.drop()
    world.queue()
    (ended,) = world.ended(run, state=SUCCEEDED)
    world.seen.append(f"{len(ended.attempts)} leases, one ran")


def queue_killed_between_finish_and_confirm(world: World) -> None:
    """A result is committed, the service dies before it says so: the agent tells it again, it counts once."""
    world.begin(agents=0)
    wire = world.wire()
    world.agent("a", to=wire.address)
    run = world.one(lines=_MANY)
    world.running(run)
    wire.hold_at(lambda said: bool(said.confirms))
    world.touch(run)
    assert wire.reached.wait(20)
    world.queues["queue"].kill()
    world.killed.append("queue -9 at Confirm")
    wire.mend()
    wire.drop()
    world.queue()
    (ended,) = world.ended(run, state=SUCCEEDED)
    assert len(ended.attempts) == 1
    world.seen.append("one result")


def grant_lost_with_its_connection(world: World) -> None:
    """A committed grant never arrives: the agent's inventory tells, and the run is leased again."""
    world.begin(agents=0)
    wire = world.wire()
    world.agent("a", to=wire.address)
    wire.hold_at(lambda said: bool(said.grants))
    run = world.one(lines=5)
    assert wire.reached.wait(20)
    world.killed.append("connection, at Grant")
    wire.drop()
    wire.mend()
    world.ended(run, state=SUCCEEDED)
    world.seen.append("leased again, ran once")


def renewed_lost_with_its_connection(world: World) -> None:
    """Renewals are committed and their answers lost, again and again: the agent trusts only what it heard."""
    world.begin(agents=0)
    wire = world.wire()
    world.agent("a", to=wire.address)
    run = world.one(lines=_MANY)
    world.running(run)
    for _ in range(5):
        wire.hold_at(lambda said: said.HasField("renewed"))
        assert wire.reached.wait(10)
        wire.drop()
        wire.mend()
    world.killed.append("connection, at Renewed, 5 times")
    world.touch(run)
    (ended,) = world.ended(run, state=SUCCEEDED)
    assert len(ended.attempts) == 1
    world.seen.append("1 attempt")


def submit_reply_lost(world: World) -> None:
    """A submission is committed and its answer lost: the client's repetition finds the same run."""
    world.begin()
    wire = world.wire()
    client = world.client(wire.address)
    client.queues.get("chaos")  # the connection is up
    wire.cut(up=False)
    names: list[str] = []
    asking = threading.Thread(
        target=lambda: names.append(client.runs.submit(submission("count", "chaos")).name)
    )
    asking.start()
    world.until(lambda: world.truth.query("SELECT count(*) FROM queue.runs") == 1)
    world.killed.append("connection, at SubmitRun's answer")
    wire.drop()
    wire.mend()
    asking.join(30)
    (name,) = names
    world.history.add(Submitted(time.time(), name))
    assert world.truth.query("SELECT count(*) FROM queue.runs") == 1
    world.ended(name, state=SUCCEEDED)
    world.seen.append("one run of two requests")


def cancel_races_grant(world: World) -> None:
    """Runs are cancelled in the moment in which they are granted: each ends, none is granted after."""
    world.begin(slots=4)
    runs: list[str] = []
    for _ in range(12):
        runs.append(world.one(lines=40))
        world.cancel(runs[-1])
    world.killed.append("nothing; 12 cancels at once")
    ended = world.ended(*runs)
    granted = sum(bool(run.attempts) for run in ended)
    assert all(run.state == CANCELLED for run in ended), [run.state for run in ended]
    world.seen.append(f"all CANCELLED, {granted} after their grant")


def cancel_races_finish(world: World) -> None:
    """Runs are cancelled as they end by themselves: each has one result, whichever was first."""
    world.begin(slots=4)
    runs = []
    for lines in (1, 3, 5, 7, 9, 12, 15, 20):
        run = world.one(lines=lines)
        world.until(lambda run=run: world.get(run).state in {RUNNING, *TERMINAL})
        world.cancel(run)
        runs.append(run)
    states = [run.state for run in world.ended(*runs)]
    world.killed.append("nothing; 8 cancels about the end")
    world.seen.append(f"{states.count(SUCCEEDED)} SUCCEEDED, {states.count(CANCELLED)} CANCELLED")


def reaper_races_finish(world: World) -> None:
    """Agents come back in the moment in which they are given up, with a result in their hands."""
    world.begin(lost=3)
    runs = []
    for length in (2.7, 3.0, 3.3):
        run = world.one(lines=_MANY)
        runs.append(run)
        world.running(run)
        world.agents["a"].freeze()
        world.lasting(length)
        world.agents["a"].thaw()
        world.let_end(run)
    world.killed.append("agent SIGSTOP for lost_after, give or take")
    leases = [len(world.attempts(run)) for run in runs]
    world.seen.append(f"{leases} attempts, one result each")


def leader_frozen(world: World) -> None:
    """Of two replicas the one that does the upkeep stands still: the other takes over, both are harmless."""
    world.queue()
    world.make_queue(lost=4)
    leader = _leader(world)
    world.queue("second")
    for agent in ("a", "b"):
        world.agent(agent, slots=1, to=world.address("second"))
    runs = world.submit("count", 2, lines=_MANY, to=world.address("second"))
    world.running(*runs)
    world.queues["queue"].freeze()
    world.agents["b"].kill()
    world.killed.append("leading queue SIGSTOP, agent -9")
    second = world.client(world.address("second"))
    lost = next(run for run in runs if second.runs.get(run).attempts[0].agent == "agents/b")
    kept = next(run for run in runs if run != lost)
    world.until(lambda: second.runs.get(lost).attempts[0].outcome == runs_pb2.ATTEMPT_OUTCOME_LOST, within=40)
    assert _leader(world) != leader
    world.queues["queue"].thaw()
    world.touch(kept)
    world.ended(kept, state=SUCCEEDED)
    world.let_end(lost)
    world.agent("b", slots=1, to=world.address("second"))
    world.seen.append("second replica took the lead and the lost run back")


def reconnect_storm(world: World) -> None:
    """Four agents lose the service at once and come back at once: no run is touched."""
    world.begin(agents=0, lost=40)
    for number in range(4):
        world.agent("abcd"[number], slots=1, wait=False)
    for agent in world.agents.values():
        agent.wait_ready()
    runs = world.submit("count", 4, lines=_MANY)
    world.running(*runs)
    for _ in range(2):
        world.queues["queue"].kill()
        world.queue()
    world.killed.append("queue -9, twice")
    world.until(lambda: not any(world.get(run).unreachable for run in runs))
    for ended in world.let_end(*runs):
        assert len(ended.attempts) == 1
    world.seen.append("4 agents back, 1 attempt each")


def _leader(world: World) -> str:
    """Return who leads the upkeep, once somebody does."""
    held = "SELECT coalesce(min(holder::text), '') FROM queue.leaders"
    world.until(lambda: world.truth.execute(held))
    return world.truth.execute(held)
