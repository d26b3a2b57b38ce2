"""Agents under kill -9, SIGSTOP, drain and upgrade."""

import shutil
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Final

from towline.v1 import leases_pb2, runs_pb2
from towline_testing.chaos_ground import ROOT
from towline_testing.chaos_world import CANCELLED, FAILED, RUNNING, SUCCEEDED, World

_MANY: Final = 1_000_000
_NEW_VERSION: Final = "9.9.9"
LOST: Final = runs_pb2.ATTEMPT_OUTCOME_LOST


def agent_killed_and_back(world: World) -> None:
    """An agent is killed while its container runs, and started again in time: one attempt, a whole log."""
    world.begin()
    run = world.one(lines=_MANY)
    world.running(run)
    container = world.container(run)
    world.agents["a"].kill()
    world.killed.append("agent -9")
    world.agent("a")
    lines = len(world.log(run))
    world.until(lambda: len(world.log(run)) > lines)
    assert world.container(run) == container
    world.touch(run)
    (ended,) = world.ended(run, state=SUCCEEDED)
    assert len(ended.attempts) == 1
    printed = world.log(run)
    assert printed == [str(number) for number in range(len(printed))]
    world.seen.append(f"same container, 1 attempt, {len(printed)} lines without a gap")


def agent_killed_for_good(world: World) -> None:
    """A killed agent's watchdog ends the container before the queue gives the run to another agent."""
    world.begin(lost=4)
    run = world.one(lines=_MANY)
    world.running(run)
    world.agent("b")
    world.agents["a"].kill()
    world.killed.append("agent -9, for good")
    world.until(lambda: world.has_attempts(run, 2))
    world.running(run)
    world.touch(run)
    (ended,) = world.ended(run, state=SUCCEEDED)
    first, second = ended.attempts
    assert (first.agent, first.outcome, second.agent) == ("agents/a", LOST, "agents/b"), ended
    world.agent("a")
    world.seen.append("watchdog ended it, b ran it; a swept what was left")


def container_ends_while_its_agent_is_dead(world: World) -> None:
    """A result that nobody was there to see is told once, by the agent that comes back."""
    world.begin()
    run = world.one(lines=_MANY)
    world.running(run)
    container = world.container(run)
    world.agents["a"].kill()
    world.killed.append("agent -9")
    world.touch(run)
    world.engine.docker("wait", container)
    world.agent("a")
    (ended,) = world.ended(run, state=SUCCEEDED)
    assert len(ended.attempts) == 1
    world.seen.append("result told after the restart")


def agent_killed_between_finish_and_confirm(world: World) -> None:
    """The result is committed, its confirmation is lost with the agent: told again, it is a duplicate."""
    world.begin(agents=0)
    wire = world.wire()
    world.agent("a", to=wire.address)
    run = world.one(lines=_MANY)
    world.running(run)
    wire.hold_at(lambda said: bool(said.confirms))
    world.touch(run)
    assert wire.reached.wait(20)
    world.ended(run, state=SUCCEEDED)
    world.agents["a"].kill()
    world.killed.append("agent -9 at Confirm")
    wire.mend()
    wire.drop()
    confirmed: list[leases_pb2.StreamLeasesResponse] = []
    wire.hold_at(lambda said: bool(confirmed.append(said)))
    world.agent("a", to=wire.address)
    world.until(lambda: not world.orphans())
    assert len(world.attempts(run)) == 1
    world.seen.append("outbox replayed, one result")


def frozen_agent_finishes_late(world: World) -> None:
    """An agent stands still past its lease; its watchdog acts, and its late result has a stale epoch."""
    world.begin(lost=4)
    run = world.one(lines=_MANY)
    world.running(run)
    world.agent("b")
    world.agents["a"].freeze()
    world.killed.append("agent SIGSTOP past lost_after")
    world.until(lambda: world.has_attempts(run, 2))
    world.running(run)
    world.agents["a"].thaw()
    world.until(lambda: not any((world.data_of("a") / "attempts").iterdir()))
    assert world.get(run).state == RUNNING
    world.touch(run)
    (ended,) = world.ended(run, state=SUCCEEDED)
    assert [attempt.agent for attempt in ended.attempts] == ["agents/a", "agents/b"]
    world.seen.append("b ran it; a dropped its stale lease")


def agent_upgraded_under_eight_runs(world: World) -> None:
    """A new version of the agent takes over in the middle of 8 containers: all end, nothing is lost."""
    upgraded = _new_version(world.folder)
    world.begin(slots=8, lost=10)
    runs = world.submit("count", 8, lines=160)
    world.running(*runs)
    assert world.agents["a"].stop() == 0
    world.killed.append("agent, replaced by 9.9.9")
    world.agent("a", slots=8, python_path=str(upgraded))
    world.until(lambda: world.client().fleet.get("a").version == _NEW_VERSION)
    still = [world.get(run).state == RUNNING for run in runs]
    assert all(still), "the upgrade was not in the middle of the runs"
    for ended in world.ended(*runs, state=SUCCEEDED, within=60):
        assert len(ended.attempts) == 1, ended
        assert world.log(ended.name) == [str(number) for number in range(160)]
    world.seen.append("8 runs, 1 attempt each, 160 lines each without a gap")


def two_agents_with_one_name(world: World) -> None:
    """A second agent of the same name on another data folder is refused and touches nothing."""
    world.begin()
    run = world.one(lines=_MANY)
    world.running(run)
    second = world.agent("twin", called="a", wait=False)
    world.killed.append("nothing; a twin was started")
    world.until(lambda: "another node" in second.log() or "is connected" in second.log())
    second.kill()
    world.touch(run)
    (ended,) = world.ended(run, state=SUCCEEDED)
    assert len(ended.attempts) == 1
    world.seen.append("twin refused, run untouched")


def drain_deadline_passes(world: World) -> None:
    """An agent drains; what runs past the deadline is preempted, told so, and goes on elsewhere."""
    world.begin()
    polite, stubborn = world.one("polite"), world.one("stubborn")
    world.running(polite, stubborn)
    world.agent("b")
    world.client().fleet.drain("a", timedelta(seconds=1))
    world.killed.append("agent drained, 1 s")
    world.until(lambda: all(world.has_attempts(run, 2) for run in (polite, stubborn)))
    assert world.agents["a"].process
    assert world.agents["a"].process.wait(20) == 0
    world.running(polite, stubborn)
    first = world.attempts(polite)[0]
    said = world.log(polite, epoch=first.epoch)
    assert any('"PREEMPTED"' in line for line in said), said
    for run in (polite, stubborn):
        world.cancel(run)
    for ended in world.ended(polite, stubborn, state=CANCELLED):
        cause = ended.attempts[0].failure.cause
        assert cause == runs_pb2.FAILURE_CAUSE_PREEMPTED, ended
    world.seen.append("both preempted, one told itself why, both went on with b")


def run_preempted(world: World) -> None:
    """A preempted run reads why it is stopped, keeps its place and its budgets, and runs again."""
    world.begin(slots=1)
    run = world.one("polite")
    world.running(run)
    behind = world.one(lines=1)
    world.client().runs.preempt(run)
    world.killed.append("nothing; run preempted")
    world.until(lambda: world.has_attempts(run, 2))
    assert len(world.attempts(behind)) == 0
    world.running(run)
    world.cancel(run)
    world.ended(run, state=CANCELLED)
    world.ended(behind, state=SUCCEEDED)
    said = world.log(run, epoch=world.attempts(run)[0].epoch)
    assert any('"PREEMPTED"' in line for line in said), said
    world.seen.append("second attempt before the run behind it")


def poison_run_kills_its_agents(world: World) -> None:
    """A run whose every start ends its agent fails for good once its budget for lost nodes is spent."""
    world.begin(lost=3)
    budget = runs_pb2.RetryPolicy(
        budgets=[runs_pb2.RetryBudget(cause=runs_pb2.FAILURE_CAUSE_NODE_LOST, max_retries=2)]
    )
    run = world.one(lines=_MANY, retries=budget)
    for attempt in (1, 2, 3):
        world.until(lambda attempt=attempt: world.has_attempts(run, attempt))
        world.running(run)
        world.agents["a"].kill()
        world.until(lambda: not world.has_lease(run))
        world.agent("a")
    world.killed.append("agent -9, three times")
    (ended,) = world.ended(run, state=FAILED)
    assert ended.failure.cause == runs_pb2.FAILURE_CAUSE_NODE_LOST, ended
    assert len(ended.attempts) == 3
    world.seen.append("FAILED with NODE_LOST after 3 attempts")


def watchdog_killed(world: World) -> None:
    """A killed watchdog is replaced by the agent, and the new one acts when the agent is killed."""
    world.begin(lost=4)
    run = world.one(lines=_MANY)
    world.running(run)
    (old,) = world.watchdogs()
    world.kill(old)
    world.until(lambda: world.watchdogs() not in ([], [old]))
    world.agent("b")
    # Frozen at once after a heartbeat or before one, the lease is the same: what counts is what was sent.
    world.agents["a"].kill()
    world.killed.append("watchdog -9, then agent -9")
    world.until(lambda: world.has_attempts(run, 2))
    world.running(run)
    world.touch(run)
    world.ended(run, state=SUCCEEDED)
    world.agent("a")
    world.seen.append("a new watchdog ended the container in time")


def time_limit_without_an_agent(world: World) -> None:
    """The watchdog enforces a run's time limit while its agent is dead; the agent tells TIMEOUT later."""
    world.begin(lost=30)
    limits = runs_pb2.TimeLimits()
    limits.max_runtime.FromTimedelta(timedelta(seconds=3))
    run = world.one(lines=_MANY, limits=limits)
    world.running(run)
    world.agents["a"].kill()
    world.killed.append("agent -9")
    world.until(lambda: not world.engine.containers(run=run, running=True))
    world.agent("a")
    (ended,) = world.ended(run, state=FAILED)
    assert ended.failure.cause == runs_pb2.FAILURE_CAUSE_TIMEOUT, ended
    assert len(ended.attempts) == 1
    world.seen.append("stopped at its limit, FAILED with TIMEOUT")


def gpus_are_never_shared(world: World) -> None:
    """More runs than GPUs, while the agent is killed twice: no GPU belongs to two leases at once."""
    world.begin(agents=0, lost=10)
    gpus = {"TOWLINE_AGENT_GPUS": "GPU-0,GPU-1"}
    world.agent("a", slots=4, **gpus)
    runs = world.submit("count", 7, lines=15, gpus=1)
    runs.append(world.one(lines=5, gpus=2))
    for done in (2, 4):
        world.until(lambda done=done: sum(world.get(run).state == SUCCEEDED for run in runs) >= done)
        world.agents["a"].kill()
        world.agent("a", slots=4, **gpus)
    world.killed.append("agent -9, twice")
    world.ended(*runs, state=SUCCEEDED, within=60)
    world.seen.append("8 runs on 2 GPUs, all succeeded")


def _new_version(folder: Path) -> Path:
    """Install this tree as another version into a folder of its own."""
    tree, target = folder / "tree", folder / "new"
    tree.mkdir()
    for part in ("sdk", "services"):
        shutil.copytree(ROOT / part, tree / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "README.md", tree)
    project = (ROOT / "pyproject.toml").read_text()
    old = next(line for line in project.splitlines() if line.startswith("version = "))
    (tree / "pyproject.toml").write_text(project.replace(old, f'version = "{_NEW_VERSION}"', 1))
    uv = Path(sys.executable).with_name("uv")
    command = [uv, "pip", "install", "--quiet", "--no-deps", "--python", sys.executable]
    subprocess.run([*command, "--target", target, tree], check=True)
    return target
