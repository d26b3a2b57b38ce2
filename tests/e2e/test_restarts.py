"""Any process may die while a container runs; the run has one attempt, one result, a whole log."""

import subprocess

import pytest

from towline.client import Client
from towline.v1 import runs_pb2
from towline_testing.jobs import code_job, submission
from towline_testing.stack import Stack
from towline_testing.waiting import eventually

pytestmark = [pytest.mark.docker, pytest.mark.postgres, pytest.mark.timeout(300)]

# Counts until the test puts a file into the container: no test waits for a clock.
COUNTS = """
import itertools, os, pathlib, time
for number in itertools.count():
    print(number, flush=True)
    if os.path.exists("/tmp/end"):
        break
    time.sleep(0.01)
pathlib.Path(os.environ["TOWLINE_OUTPUTS"], "count").write_text(str(number))
"""


@pytest.fixture
def counting(client: Client) -> str:
    """A run whose container is counting."""
    name = client.runs.submit(submission(code_job(client, "counts", COUNTS))).name
    eventually(lambda: log_of(client, name).count(b"\n") > 10, within=120)
    return name


def log_of(client: Client, run: str) -> bytes:
    return b"".join(piece.data for piece in client.logs.tail(run))


def container_of(run: str) -> str:
    command = ["docker", "ps", "-aq", "--no-trunc", "--filter", f"label=towline.run={run}"]
    return subprocess.check_output(command, text=True).strip()


def end(container: str) -> None:
    subprocess.run(["docker", "exec", container, "touch", "/tmp/end"], check=True)


def assert_whole(client: Client, run: str, tmp_path) -> None:
    ended = client.runs.wait(run)
    assert ended.state == runs_pb2.RUN_STATE_SUCCEEDED, ended
    assert len(ended.attempts) == 1
    client.runs.outputs(run, tmp_path)
    last = int((tmp_path / "count").read_text())
    assert log_of(client, run).split() == [b"%d" % number for number in range(last + 1)]
    eventually(lambda: not container_of(run))  # cleaned away once the result was confirmed


def test_agent_killed_and_started_again(client: Client, stack: Stack, counting: str, tmp_path) -> None:
    container = container_of(counting)

    stack.kill("agent")
    stack.start("agent")
    before = log_of(client, counting)
    eventually(lambda: len(log_of(client, counting)) > len(before))
    assert container_of(counting) == container
    end(container)

    assert_whole(client, counting, tmp_path)


def test_container_ends_while_the_agent_is_dead(
    client: Client, stack: Stack, counting: str, tmp_path
) -> None:
    container = container_of(counting)

    stack.kill("agent")
    end(container)
    subprocess.run(["docker", "wait", container], check=True, stdout=subprocess.DEVNULL)
    stack.start("agent")

    assert_whole(client, counting, tmp_path)


def test_agent_stopped_in_order_leaves_the_container_running(
    client: Client, stack: Stack, counting: str, tmp_path
) -> None:
    container = container_of(counting)

    assert stack.stop("agent") == 0
    state = subprocess.check_output(["docker", "inspect", "-f", "{{.State.Status}}", container], text=True)
    assert state.strip() == "running"
    stack.start("agent")
    end(container)

    assert_whole(client, counting, tmp_path)


def test_queue_killed_and_started_again(client: Client, stack: Stack, counting: str, tmp_path) -> None:
    stack.kill("queue")
    end(container_of(counting))
    stack.start("queue")

    assert_whole(client, counting, tmp_path)


def test_registry_away_while_outputs_are_kept(client: Client, stack: Stack, counting: str, tmp_path) -> None:
    stack.kill("registry")
    container = container_of(counting)
    end(container)
    subprocess.run(["docker", "wait", container], check=True, stdout=subprocess.DEVNULL)
    stack.start("registry")

    assert_whole(client, counting, tmp_path)
