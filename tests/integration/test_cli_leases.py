"""Limits, retries, preemption, drains and silent agents, as the command line and the client have them."""

import asyncio
import json
import subprocess
from collections.abc import Awaitable, Callable
from datetime import UTC, timedelta
from pathlib import Path

import pytest

from towline.client import AsyncClient, Endpoints, retry_policy, time_limits
from towline.errors import FailedPrecondition
from towline.names import short
from towline.v1 import fleet_pb2, leases_pb2, runs_pb2
from towline_testing.command import towline
from towline_testing.fake_agent import FakeAgent, failed
from towline_testing.lease_world import JOB, LeaseWorld, lease_world, policy
from towline_testing.waiting import eventually_async

# What the command line shows is the same on each version.
pytestmark = pytest.mark.one_postgres

Command = Callable[..., Awaitable[subprocess.CompletedProcess[str]]]


QUICK = policy(heartbeat_s=0.1, disconnected_s=60, lost_s=600)
PREEMPTED = failed(runs_pb2.FAILURE_CAUSE_PREEMPTED, 0)


def command_for(world: LeaseWorld) -> Command:
    """Make what runs the command line without standing in the way of the service in this loop."""
    addresses = {
        "TOWLINE_QUEUE_ADDRESS": world.service.address,
        "TOWLINE_REGISTRY_ADDRESS": world.registry_address,
    }
    return lambda *arguments: asyncio.to_thread(towline, *arguments, env=addresses)


def client_for(world: LeaseWorld) -> AsyncClient:
    return AsyncClient(Endpoints(registry=world.registry_address, queue=world.service.address))


async def test_limits_and_retries_of_the_command_line_are_the_runs(database_url: str, tmp_path: Path) -> None:
    async with lease_world(database_url, tmp_path) as world:
        command = command_for(world)
        given = ("--retries", "1", "--retries", "oom=2", "--max-runtime", "2h", "--max-wait", "1h30m")
        done = await command("submit", "work:v0", *given)
        assert done.returncode == 0, done.stderr
        run = done.stdout.strip()
        shown = json.loads((await command("run", "show", run, "--json")).stdout)
        assert shown["limits"] == {"max_wait": "5400s", "max_runtime": "7200s"}
        budgets = {entry["cause"]: entry["max_retries"] for entry in shown["retry_policy"]["budgets"]}
        assert (budgets["FAILURE_CAUSE_USER_ERROR"], budgets["FAILURE_CAUSE_OOM"]) == (1, 2)
        page = (await command("run", "show", run)).stdout
        assert "runs 2h at most, waits 1h30m at most" in page
        assert "user error 0 of 1, oom 0 of 2" in page
        for wrong, told in (
            (("--max-runtime", "2x"), "error: --max-runtime: '2x' is no duration; write one such as"),
            (("--max-wait", "5"), "error: --max-wait: '5' has no unit; write 5s, 5m, 5h or 5d"),
            (("--retries", "bad=1"), "error: --retries: 'bad' is none of user_error, oom"),
        ):
            refused = await command("submit", "work:v0", *wrong)
            assert (refused.returncode, refused.stdout) == (2, "")
            assert refused.stderr.startswith(told)


async def test_a_queue_file_bounds_what_submissions_may_ask_for(database_url: str, tmp_path: Path) -> None:
    async with lease_world(database_url, tmp_path) as world:
        command = command_for(world)
        file = tmp_path / "queue.yaml"
        file.write_text(
            "limits: {max_runtime: 1h}\n"
            "retry_policy: {budgets: [{cause: oom, max_retries: 4}], first_backoff: 1m30s}\n"
            "lease_policy: {lost_after: 4h, stop_signal: SIGUSR1}\n"
        )
        assert (await command("queue", "create", "long", "--file", file)).returncode == 0
        printed = (await command("queue", "show", "long")).stdout
        for line in ("max_runtime: 1h", "cause: oom", "1m30s", "lost_after: 4h", "stop_signal: SIGUSR1"):
            assert line in printed
        refused = await command("submit", "work:v0", "-q", "long", "--max-runtime", "2h")
        assert refused.returncode == 2
        assert refused.stderr.startswith("error: --max-runtime: is 2h; the queue allows 1h")
        run = (await command("submit", "work:v0", "-q", "long")).stdout.strip()
        page = (await command("run", "show", run)).stdout
        assert "runs 1h at most" in page
        assert "oom 0 of 4" in page
        file.write_text("lease_policy: {stop_signal: SIGKILL}")
        unstoppable = await command("queue", "create", "deaf", "--file", file)
        assert unstoppable.returncode == 2
        assert "SIGUSR1" in unstoppable.stderr


async def test_a_retry_is_shown_before_and_after_it_begins(database_url: str, tmp_path: Path) -> None:
    async with (
        lease_world(database_url, tmp_path, policy=QUICK) as world,
        client_for(world) as client,
        FakeAgent().connected(world.service.channel, beating=True) as session,
    ):
        command = command_for(world)
        run = await client.runs.submit(
            runs_pb2.RunSubmission(
                job=JOB,
                queue="default",
                limits=time_limits(max_runtime=timedelta(hours=1)),
                retry_policy=retry_policy({"user_error": 2}, first_backoff=timedelta(minutes=5)),
            )
        )
        assert run.limits.max_runtime.ToTimedelta() == timedelta(hours=1)
        grant = await session.next_accepted()
        await session.finish(grant, failed(exit_code=3))
        waiting = await world.reaches(run.name, runs_pb2.RUN_STATE_SCHEDULED)
        left = waiting.due_time.ToDatetime(UTC) - waiting.attempts[0].times.end_time.ToDatetime(UTC)
        assert timedelta(minutes=3) < left <= timedelta(minutes=5)
        page = (await command("run", "show", short(run.name))).stdout
        assert "scheduled · until " in page
        assert "to be tried again after: user error" in page
        assert "user error 1 of 2" in page
        assert "user error: It failed." in page
        await world.sql("UPDATE queue.scheduled SET due_time = now()")
        again = await session.next_accepted()
        page = (await command("run", "show", short(run.name))).stdout
        rows = [line.split() for line in page.splitlines()]
        assert ["attempts", "EPOCH", "OUTCOME", "CAUSE", "AGENT", "LEASED", "RAN", "OUTPUTS"] in rows
        assert any(row[:5] == [str(grant.epoch), "failed", "user", "error", "one"] for row in rows), page
        assert any(row[:3] == [str(again.epoch), "leased", "one"] for row in rows), page


async def test_a_run_is_preempted_and_waits_again(database_url: str, tmp_path: Path) -> None:
    async with (
        lease_world(database_url, tmp_path, policy=QUICK) as world,
        client_for(world) as client,
        FakeAgent().connected(world.service.channel, beating=True) as session,
    ):
        command = command_for(world)
        run = short(await world.submit())
        grant = await session.next_accepted()
        await session.beat()
        done = await command("run", "preempt", run)
        assert done.returncode == 0, done.stderr
        fate = "it goes back to its place in the queue: runs of a higher priority, and older ones, go first"
        assert done.stdout == f"{run} leased, preempting; {fate}\n"
        await session.until(lambda: session.cancels)
        assert session.cancels[0].reason == leases_pb2.STOP_REASON_PREEMPTED
        await session.beat(free_slots=0)
        await session.finish(grant, PREEMPTED)
        second = await session.next_accepted()
        assert second.epoch > grant.epoch
        preempted = await client.runs.preempt(run)
        assert preempted.preempt_requested
        await session.finish(second, PREEMPTED)
        third = await session.next_accepted()
        page = (await command("run", "show", run)).stdout
        assert "preempted 2 of 1000" in page
        assert [line.split()[:2] for line in page.splitlines()].count([str(grant.epoch), "preempted"]) == 1, (
            page
        )
        assert (await command("run", "cancel", run)).returncode == 0
        both = await command("run", "preempt", "00000000000000000g", run)
        assert both.returncode == 2
        assert "00000000000000000g" in both.stderr
        told = "leased, cancel asked; it is being cancelled, and does not come back"
        assert both.stdout == f"{run} {told}\n"
        await session.finish(third)
        over = await command("run", "preempt", run)
        assert over.returncode == 4
        assert over.stderr.startswith("error: run ")
        with pytest.raises(FailedPrecondition) as raised:
            await client.runs.preempt(run)
        assert raised.value.reason == "RUN_NOT_ACTIVE"


async def test_a_drain_has_a_deadline(database_url: str, tmp_path: Path) -> None:
    async with (
        lease_world(database_url, tmp_path, policy=QUICK) as world,
        client_for(world) as client,
        FakeAgent().connected(world.service.channel, beating=True) as session,
    ):
        command = command_for(world)
        await world.submit()
        await session.next_accepted()
        await session.beat()
        refused = await command("agent", "drain", "one", "--deadline", "soon")
        assert refused.returncode == 2
        assert refused.stderr.startswith("error: --deadline: 'soon' is no duration")
        done = await command("agent", "drain", "one", "--deadline", "10m")
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("one drains; it leaves after 1 run, and preempts those left at ")
        page = (await command("agent", "show", "one")).stdout
        assert "are preempted" in page
        agent = await client.fleet.drain("one", deadline=timedelta())
        assert agent.state == fleet_pb2.AGENT_STATE_DRAINING
        await session.until(lambda: session.cancels)
        assert session.cancels[0].reason == leases_pb2.STOP_REASON_PREEMPTED


async def test_a_silent_agents_run_is_unreachable_since_a_moment(database_url: str, tmp_path: Path) -> None:
    brief = policy(heartbeat_s=0.1, disconnected_s=4, lost_s=600)
    async with lease_world(database_url, tmp_path, policy=brief) as world:
        command = command_for(world)
        async with FakeAgent().connected(world.service.channel, beating=True) as session:
            run = await world.submit()
            grant = await session.next_accepted()
            await session.event(grant, 1, runs_pb2.RUN_STATE_RUNNING)
            await world.reaches(run, runs_pb2.RUN_STATE_RUNNING)
            listed = (await command("run", "list", "--state", "unreachable", "--json")).stdout
            assert json.loads(listed) == []
            await session.drop()

        async def unreachable() -> bool:
            return (await world.get(run)).unreachable

        await eventually_async(unreachable)
        rows = (await command("run", "list", "--state", "unreachable")).stdout.splitlines()[1:]
        assert [row.split()[:2] for row in rows] == [[short(run), "unreachable"]]
        page = (await command("run", "show", short(run))).stdout
        assert "unreachable · was running on one, which is silent" in page
        assert "the run goes to another agent when its queue's lost_after is over" in page
