"""Processes are known beyond their pid, and what is written down survives its writer."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from towline.embedded import services
from towline.embedded.going_on import going_on
from towline.embedded.layout import Layout
from towline.embedded.processes import Ending, ProcessId, boot_id, end
from towline.embedded.state import State, StateFile, owning
from towline.errors import FailedPrecondition
from towline_agent.deadlines import Deadline, Deadlines
from towline_testing.waiting import eventually

STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(60)"
)


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", STUBBORN], stdout=subprocess.PIPE)
    assert process.stdout
    assert process.stdout.readline() == b"1\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout(tmp_path / "data")
    layout.make()
    return layout


def test_a_process_is_itself_until_it_has_ended(child: subprocess.Popen[bytes]) -> None:
    process = ProcessId.of(child.pid)
    assert process is not None
    assert process.alive()
    child.kill()
    eventually(lambda: not process.alive())  # while it is a zombie, too: nobody has waited for it
    assert ProcessId.of(child.pid) is None


def test_another_process_with_the_same_pid_is_not_it(child: subprocess.Popen[bytes]) -> None:
    process = ProcessId.of(child.pid)
    assert process is not None
    older = ProcessId(process.pid, process.started - 1)
    assert not older.alive()
    older.send(signal.SIGKILL)
    assert process.alive()


async def test_a_process_that_does_not_listen_is_killed(child: subprocess.Popen[bytes]) -> None:
    process = ProcessId.of(child.pid)
    assert process is not None
    orderly = await end(process, Ending(grace=timedelta(seconds=0.05)), asyncio.Event())
    assert not orderly
    assert child.wait() == -signal.SIGKILL


async def test_hurry_cuts_the_grace_short(child: subprocess.Popen[bytes]) -> None:
    process = ProcessId.of(child.pid)
    assert process is not None
    hurry = asyncio.Event()
    hurry.set()
    assert not await end(process, Ending(grace=timedelta(hours=1)), hurry)


def test_the_next_supervisor_reads_what_the_last_one_wrote(layout: Layout) -> None:
    me = ProcessId.of(os.getpid())
    assert me is not None
    written = StateFile(layout.state)
    written.supervised_by(me)
    written.listening({"queue": "127.0.0.1:1"})
    written.started("queue", me)
    written.started("agent", ProcessId(me.pid, me.started + 1))
    written.started("registry", me)
    written.ended("registry")
    read = StateFile(layout.state).now
    assert read.supervisor == me
    assert read.leftovers() == {"queue": me}
    assert read.addresses == {"queue": "127.0.0.1:1"}


def test_after_a_reboot_only_the_addresses_count(layout: Layout) -> None:
    me = ProcessId.of(os.getpid())
    assert me is not None
    written = StateFile(layout.state)
    written.listening({"queue": "127.0.0.1:1"})
    written.started("queue", me)
    content = json.loads(layout.state.read_text())
    assert content["boot_id"] == boot_id()
    layout.state.write_text(json.dumps(content | {"boot_id": "another"}))
    assert StateFile(layout.state).now == State(addresses={"queue": "127.0.0.1:1"})


def test_who_was_drained_is_known_until_it_or_all_start_again(layout: Layout) -> None:
    me = ProcessId.of(os.getpid())
    assert me is not None
    written = StateFile(layout.state)
    written.left("agent")
    assert StateFile(layout.state).now.drained == ("agent",)
    written.started("agent", me)
    assert StateFile(layout.state).now.drained == ()
    written.left("agent")
    written.supervised_by(me)
    assert StateFile(layout.state).now.drained == ()


@pytest.mark.parametrize(
    ("ends", "told"),
    [
        ([], None),
        ([(-1, "a"), (50, "")], None),
        ([(90.5, "a")], "1 run goes on; `towline up` within 90s takes it up, else it is stopped"),
        (
            [(1e5, "a"), (200.5, "b")],
            "2 runs go on; `towline up` within 3m takes them up, else they are stopped",
        ),
    ],
)
def test_runs_that_go_on_are_counted_with_the_time_left(
    layout: Layout, ends: list[tuple[float, str]], told: str | None
) -> None:
    now = time.clock_gettime(time.CLOCK_BOOTTIME)
    leases = [
        Deadline("1.1", 1, "runs/1", "c", "SIGTERM", now + left, now + left + 15, "LEASE_EXPIRED", container)
        for left, container in ends
    ]
    file = Deadlines(layout.agent)  # as the agent writes it
    file.write(leases)
    event = going_on(layout)
    assert (event and event.detail) == told
    Deadlines(layout.agent, "another boot").write(leases)
    assert going_on(layout) is None
    file.path.write_text("{")
    assert going_on(layout) is None


def test_a_damaged_state_is_said(layout: Layout) -> None:
    layout.state.write_text("{")
    with pytest.raises(FailedPrecondition, match="is damaged"):
        StateFile(layout.state)


def test_one_owner_at_a_time_and_none_after_it(layout: Layout) -> None:
    with owning(layout) as first:
        assert first
        with owning(layout) as second:
            assert not second
    with owning(layout) as third:
        assert third


def test_a_data_dir_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    with pytest.raises(FailedPrecondition, match="--data-dir"):
        Layout(tmp_path / "data").make()


def test_last_addresses_are_taken_again_unless_somebody_has_them() -> None:
    first = services.choose_addresses({})
    assert len(set(first.values())) == len(services.SERVICES)
    assert services.choose_addresses(first) == first
    with socket.create_server(("127.0.0.1", int(first["queue"].rpartition(":")[2]))):
        second = services.choose_addresses(first)
    assert second["queue"] != first["queue"]
    assert second["registry"] == first["registry"]


def test_services_get_an_environment_of_their_own(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = layout.root / "ca.pem"
    bundle.write_text("")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("TOWLINE_QUEUE_LOG_LEVEL", "DEBUG")
    monkeypatch.setenv("TOWLINE_AGENT_SLOTS", "7")
    monkeypatch.setenv("TOWLINE_AGENT_QUEUE_ADDRESS", "elsewhere:1")
    monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
    addresses = {name: f"127.0.0.1:{port}" for port, name in enumerate(services.SERVICES, start=1)}
    made = services.programs(layout, addresses, "postgresql://x")
    for program in made.values():
        assert "AWS_SECRET_ACCESS_KEY" not in program.environment
    assert "TOWLINE_QUEUE_LOG_LEVEL" not in made["queue"].environment
    agent = made["agent"].environment
    assert agent["TOWLINE_AGENT_SLOTS"] == "7"
    assert agent["TOWLINE_AGENT_QUEUE_ADDRESS"] == addresses["queue"]
    assert made["registry"].environment["TOWLINE_REGISTRY_QUEUE_ADDRESS"] == addresses["queue"]
    assert agent["TOWLINE_AGENT_BUILD_CA_BUNDLE"] == str(bundle)
    monkeypatch.setenv("TOWLINE_AGENT_BUILD_CA_BUNDLE", "/other.pem")
    made = services.programs(layout, addresses, "postgresql://x")
    assert made["agent"].environment["TOWLINE_AGENT_BUILD_CA_BUNDLE"] == "/other.pem"
