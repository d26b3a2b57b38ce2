"""The command on a whole Towline: what it prints, where, and with which exit code."""

import json
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from towline.client import Client
from towline.names import short
from towline.v1 import runs_pb2
from towline_testing.command import COMMAND, towline
from towline_testing.jobs import code_job, submission
from towline_testing.stack import Stack
from towline_testing.waiting import eventually

pytestmark = [pytest.mark.docker, pytest.mark.postgres, pytest.mark.timeout(300)]

Command = Callable[..., CompletedProcess[str]]

PRINTS_BYTES = r"""
import os, sys
sys.stdout.buffer.write(b"one\r\n\xff\x00two")
with open(os.environ["TOWLINE_OUTPUTS"] + "/metrics.json", "w") as file:
    file.write("{}")
"""
FAILS = "raise ValueError('no luck')"
WAITS = "import time; print('ready', flush=True); time.sleep(600)"


@pytest.fixture
def command(stack: Stack) -> Command:
    """Run a command line against the stack."""

    def run(*arguments: str | Path, cwd: Path | None = None) -> CompletedProcess[str]:
        return towline(*arguments, env=stack.client_environment, cwd=cwd, within=110)

    return run


def _document(done: CompletedProcess[str]) -> object:
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1
    return json.loads(done.stdout)


def test_follow_gives_the_log_byte_by_byte_and_the_states_apart(stack: Stack, client: Client) -> None:
    job = code_job(client, "cli-bytes", PRINTS_BYTES, config={"lr": 0.1})
    done = subprocess.run(
        [*COMMAND, "submit", job, "--set", "lr=1e-3", "--name", "bytes", "--follow"],
        env=stack.client_environment,
        capture_output=True,
        check=False,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == b"one\r\n\xff\x00two"
    states = done.stderr.decode()
    assert "running" in states
    assert "succeeded" in states
    assert "queued 0." in states
    assert "\x1b" not in states


def test_a_finished_run_is_shown_listed_and_downloaded(
    command: Command, client: Client, tmp_path: Path
) -> None:
    job = code_job(client, "cli-bytes", PRINTS_BYTES, config={"lr": 0.1})
    run = command("submit", job, "--set", "lr=0.5", "--label", "kind=shown").stdout.strip()
    assert command("run", "wait", run).returncode == 0
    page = command("run", "show", run).stdout
    for fact in (run, "succeeded", "cli-bytes:v", "lr: 0.5", "kind=shown", "exit code 0", "outputs"):
        assert fact in page, fact
    shown = _document(command("run", "show", run, "--json"))
    assert isinstance(shown, dict)
    assert shown["state"] == "RUN_STATE_SUCCEEDED"
    assert json.loads(shown["config_json"]) == {"lr": 0.5}
    listed = _document(command("run", "list", "--label", "kind=shown", "--state", "succeeded", "--json"))
    assert [entry["name"] for entry in listed] == [f"runs/{run}"]
    assert "metrics.json" in command("run", "outputs", run).stdout
    assert command("run", "outputs", run, "--to", tmp_path / "out").returncode == 0
    assert (tmp_path / "out" / "metrics.json").read_text() == "{}"
    kept = (tmp_path / "out" / "metrics.json").stat().st_ino
    assert command("run", "outputs", run, "--to", tmp_path / "out").returncode == 0
    assert (tmp_path / "out" / "metrics.json").stat().st_ino == kept
    (tmp_path / "out" / "metrics.json").write_text("mine")
    refused = command("run", "outputs", run, "--to", tmp_path / "out")
    assert refused.returncode == 4
    assert "metrics.json" in refused.stderr
    assert (tmp_path / "out" / "metrics.json").read_text() == "mine"
    assert command("run", "outputs", run, "--to", tmp_path / "out", "--force").returncode == 0
    assert (tmp_path / "out" / "metrics.json").read_text() == "{}"
    for nowhere in ("/dev/null", "/proc/nope", tmp_path / "out" / "metrics.json" / "below"):
        unwritten = command("run", "outputs", run, "--to", nowhere)
        assert unwritten.returncode == 2
        assert unwritten.stderr.startswith(f"error: --to {nowhere}: cannot be written (")
    tail = _document(command("run", "logs", run, "--tail", "3", "--json"))
    assert isinstance(tail, dict)
    assert tail["data"] == "dHdv"


def test_a_failing_run_is_exit_code_1(command: Command, client: Client) -> None:
    job = code_job(client, "cli-fails", FAILS)
    followed = command("submit", job, "--follow")
    assert followed.returncode == 1
    assert "ValueError: no luck" in followed.stdout
    assert "user error" in followed.stderr
    run = followed.stderr.split()[1].rstrip(":")
    assert command("run", "wait", run).returncode == 1
    assert "ValueError: no luck" in command("run", "show", run).stdout
    again = command("run", "retry", run, "--json")
    assert json.loads(again.stdout)["retry_of"] == f"runs/{run}"


def test_a_build_that_fails_shows_its_log(command: Command, client: Client) -> None:
    job = code_job(client, "cli-no-build", "", requirements=("no-such-package-of-towline==9",))
    followed = command("submit", job, "--follow")
    assert followed.returncode == 1
    assert "image build" in followed.stderr
    assert "| " in followed.stderr
    assert "no-such-package-of-towline" in followed.stderr
    assert "preparing · installing 1 requirements" in followed.stderr
    page = command("run", "show", followed.stderr.split()[1].rstrip(":")).stdout
    assert "no image after" in page
    assert "s  start the build container" in page


def test_ctrl_c_detaches_and_the_run_goes_on(stack: Stack, command: Command, client: Client) -> None:
    job = code_job(client, "cli-waits", WAITS)
    follower = subprocess.Popen(
        [*COMMAND, "submit", job, "--follow"],
        env=stack.client_environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert follower.stdout
    assert follower.stdout.readline() == b"ready\n"
    follower.send_signal(signal.SIGINT)
    _, said = follower.communicate(timeout=30)
    assert follower.returncode == 130
    run = said.decode().split()[1].rstrip(":")
    assert f"towline run logs -f {run}" in said.decode()
    assert f"towline run cancel {run}" in said.decode()
    assert client.runs.get(run).state == runs_pb2.RUN_STATE_RUNNING
    assert command("run", "cancel", run).returncode == 0
    ended = command("run", "wait", run)
    assert ended.returncode == 1
    assert "cancelled" in ended.stderr


def test_a_reader_that_has_seen_enough_is_no_error(stack: Stack, client: Client) -> None:
    job = code_job(client, "cli-talks", "for number in range(200000): print(number)")
    run = client.runs.wait(client.runs.submit(submission(job)).name)
    logs = subprocess.Popen(
        [*COMMAND, "run", "logs", short(run.name)],
        env=stack.client_environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert logs.stdout
    assert logs.stdout.read(2) == b"0\n"
    logs.stdout.close()
    assert logs.stderr
    assert logs.stderr.read() == b""
    logs.stderr.close()
    assert logs.wait(30) == 0


def test_many_are_submitted_at_once_and_cancelled(command: Command, client: Client) -> None:
    assert command("queue", "create", "cli-many").returncode == 0
    job = code_job(client, "cli-waits", WAITS)
    done = command("submit", job, "-q", "cli-many", "--count", "3", "--priority", "high")
    runs = done.stdout.split()
    assert len(set(runs)) == 3
    refused = command("queue", "delete", "cli-many")
    assert refused.returncode == 4
    assert command("submit", job, "-q", "cli-many", "--label", "kept=no", "--count", "2").returncode == 0
    assert command("run", "cancel", "-q", "cli-many", "--label", "kept=no").stdout == "asked 2 runs to stop\n"
    partly = command("run", "cancel", runs[0], "nope", runs[1])
    assert partly.returncode == 2
    assert "run 'nope' does not exist" in partly.stderr
    assert [line.split()[0] for line in partly.stdout.splitlines()] == runs[:2]
    rest = _document(command("run", "cancel", "-q", "cli-many", "--json"))
    assert isinstance(rest, list)
    assert [run["name"] for run in rest] == [f"runs/{runs[2]}"]
    assert command("run", "cancel", "-q", "cli-many").stdout == "asked 0 runs to stop\n"
    for nowhere in (("list", "-q", "nope"), ("list", "--job", "nope"), ("cancel", "-q", "nope")):
        assert command("run", *nowhere).returncode == 2
    assert command("queue", "delete", "cli-many").returncode == 0


def test_a_queue_is_made_printed_edited_and_paused(command: Command, tmp_path: Path) -> None:
    made = command("queue", "create", "cli-queue", "--memory", "1GiB", "--env", "A=b")
    assert made.returncode == 0, made.stderr
    assert command("queue", "create", "cli-queue").returncode == 4
    file = tmp_path / "queue.yaml"
    file.write_text(command("queue", "show", "cli-queue").stdout.replace("1GiB", "2GiB"))
    assert command("queue", "update", "cli-queue", "--file", file, "--cpus", "2").returncode == 0
    queue = _document(command("queue", "show", "cli-queue", "--json"))
    assert isinstance(queue, dict)
    assert queue["spec"]["docker"]["memory"] == "2GiB"
    assert queue["spec"]["docker"]["cpus"] == "2"
    assert queue["spec"]["docker"]["environment"] == {"A": "b"}
    assert command("queue", "pause", "cli-queue").stdout == "paused cli-queue\n"
    rows = command("queue", "list").stdout.splitlines()
    assert any(row.split()[:4] == ["cli-queue", "0", "0", "yes"] for row in rows)
    assert command("queue", "resume", "cli-queue").returncode == 0
    wrong = command("queue", "update", "cli-queue", "--memory", "much")
    assert wrong.returncode == 2
    assert "docker.memory" in wrong.stderr
    assert command("queue", "delete", "cli-queue").returncode == 0


def test_bad_input_is_refused_with_every_violation(command: Command, client: Client) -> None:
    job = code_job(client, "cli-config", "", config={"lr": 0.1, "depth": 3})
    both = command("submit", job, "--set", "lr=fast", "--set", "width=1")
    assert both.returncode == 2
    lines = [line.strip() for line in both.stderr.splitlines()]
    assert any(line.startswith("lr:") for line in lines)
    assert any(line.startswith("width:") for line in lines)
    variables = command("submit", job, "--var", "memory=1", "--var", "nope=1", "--json")
    assert variables.returncode == 2
    error = json.loads(variables.stderr)["error"]
    assert error["reason"] == "INVALID_VARIABLE"
    assert set(error["metadata"]) == {"memory", "nope"}
    for line in (
        ("submit", "cli-nothing"),
        ("submit", f"{job}:no-alias"),
        ("submit", job, "-q", "no-queue"),
        ("submit", job, "--priority", "urgent"),
        ("submit", job, "--count", "2", "--follow"),
        ("run", "show", "no-run"),
        ("run", "list", "--state", "waiting"),
        ("job", "show", "cli-nothing"),
        ("launch", "--", "python", "no-such-script.py"),
    ):
        done = command(*line)
        assert done.returncode == 2, (line, done.stderr)
        assert done.stderr.startswith("error: "), done.stderr
        assert "Traceback" not in done.stderr
        assert not done.stdout


def test_launch_records_and_runs_a_command(command: Command, training_python: Path, tmp_path: Path) -> None:
    (tmp_path / "hello.py").write_text("import sys; print('hello', *sys.argv[1:])")
    launched = command(
        "launch",
        "--job",
        "cli-launch",
        "--follow",
        "--",
        training_python,
        "hello.py",
        "--x",
        "1",
        cwd=tmp_path,
    )
    assert launched.returncode == 0, launched.stderr
    assert launched.stdout == "hello --x 1\n"
    assert "recorded cli-launch:v0" in launched.stderr
    page = command("job", "show", "cli-launch").stdout
    assert "python hello.py --x 1" in page
    assert "cli-launch:v0" in page
    again = command(
        "job",
        "create",
        "code",
        "--name",
        "cli-launch",
        "--",
        training_python,
        "hello.py",
        "--x",
        "1",
        cwd=tmp_path,
    )
    assert again.stdout == "unchanged cli-launch:v0\n"


def test_jobs_of_images_and_of_git(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = command("job", "create", "image", "image.invalid/none:1", "--name", "cli-image", "--", "true")
    assert made.stdout == "recorded cli-image:v0\n"
    missing = command("submit", "cli-image", "--follow")
    assert missing.returncode == 1
    assert "image pull" in missing.stderr

    repository = tmp_path / "repository"
    git = ("git", "-c", "user.name=t", "-c", "user.email=t@t", "-C", repository)
    subprocess.run(["git", "init", "-q", "-b", "main", repository], check=True)
    (repository / "main.py").write_text("")
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "first"], check=True)
    subprocess.run([*git, "tag", "-a", "-m", "one", "one"], check=True)
    head = subprocess.run(
        [*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True
    ).stdout.strip()
    # As if a server had it: files of this machine are no source that agents can fetch.
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", f"url.{repository}.insteadOf")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "https://code.example/repository")
    create = ("job", "create", "git", "https://code.example/repository", "--name", "cli-git", "--json")
    for ref in ("main", "one", "HEAD", head):
        made_of_ref = _document(command(*create, "--commit", ref, "--", "python", "main.py"))
        assert isinstance(made_of_ref, dict)
        assert made_of_ref["job_version"]["spec"]["git"]["commit"] == head
    unknown = command(*create, "--commit", "none", "--", "python", "main.py")
    assert unknown.returncode == 2


def test_an_agent_is_started_shown_and_drained(stack: Stack, command: Command, tmp_path: Path) -> None:
    assert command("queue", "create", "cli-agents").returncode == 0
    start = ("agent", "start", "--name", "cli-agent", "-q", "cli-agents", "--slots", "2", "--gpus", "none")
    agent = subprocess.Popen(
        [*COMMAND, *start, "--data-dir", tmp_path / "agent", "--label", "rack=7"],
        env=stack.client_environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        eventually(
            lambda: "connected" in command("agent", "show", "cli-agent").stdout or agent.poll() is not None,
            within=60,
        )
        page = command("agent", "show", "cli-agent").stdout
        for fact in ("cli-agents", "slots", "2", "rack=7"):
            assert fact in page, fact
        assert "cli-agent" in command("agent", "list").stdout
        assert command("agent", "drain", "cli-agent").returncode == 0
        assert agent.wait(30) == 0
    finally:
        agent.kill()
        agent.wait()


def test_names_are_completed(stack: Stack, client: Client) -> None:
    code_job(client, "cli-completed", "")
    words = "towline submit cli-compl"
    done = subprocess.run(
        COMMAND,
        env=stack.client_environment
        | {"_TOWLINE_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": "2"},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.stdout.split() == ["cli-completed"]


def test_without_services_the_remedy_is_said(tmp_path: Path) -> None:
    environment = {"TOWLINE_DATA_DIR": str(tmp_path)}
    done = towline("run", "list", env=environment)
    assert done.returncode == 3
    assert "towline up" in done.stderr
    as_json = towline("run", "list", "--json", env=environment)
    assert json.loads(as_json.stderr)["error"]["exit_code"] == 3
