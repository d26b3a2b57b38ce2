"""Commands that become jobs without running, with a real registry and queue."""

import json
import os
import subprocess
import sys

import pytest

from towline.errors import NotFound
from towline.v1 import queues_pb2
from towline_testing.checkouts import git_checkout, program_environment
from towline_testing.command import towline
from towline_testing.stack import Stack

SCRIPT = "import towline; print(towline.init({'lr': 0.1, 'model': {'width': 8}}).config.lr)"


@pytest.fixture(scope="module")
def stack(embedded_postgres, tmp_path_factory):
    """Registry and queue; nothing runs what is queued."""
    database = f"launch_{os.urandom(4).hex()}"
    embedded_postgres.psql(f"CREATE DATABASE {database}")
    stack = Stack(tmp_path_factory.mktemp("stack"), embedded_postgres.url(database))
    try:
        stack.start("registry", "queue")
        with stack.client() as client:
            client.queues.create("default", queues_pb2.QueueSpec())
        yield stack
    finally:
        stack.stop_all()
        embedded_postgres.psql(f"DROP DATABASE {database} WITH (FORCE)")


@pytest.fixture
def project(tmp_path):
    tree = git_checkout(tmp_path / f"project-{os.urandom(3).hex()}")
    tree.commit({"train.py": SCRIPT})
    return tree


@pytest.fixture
def command(stack, project):
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return towline(*arguments, env=stack.client_environment, cwd=project.root)

    return run


def config_of(command, run: str) -> dict[str, object]:
    return json.loads(json.loads(command("run", "show", run.strip(), "--json").stdout)["config_json"])


def test_a_launch_after_a_recording_keeps_the_parameters_and_makes_no_new_version(command, stack, project):
    job = f"{project.root.name}-train"
    addresses = {key: value for key, value in stack.client_environment.items() if key.startswith("TOWLINE_")}
    assert f"recorded {job}:v0" in project.python("train.py", **program_environment() | addresses).stderr
    launched = command("launch", "--set", "model.width=16", "--", sys.executable, "train.py")
    assert launched.returncode == 0, launched.stderr
    assert f"unchanged {job}:v0" in launched.stderr
    assert config_of(command, launched.stdout) == {"lr": 0.1, "model": {"width": 16}}
    project.write({"helper.py": "x = 1"})
    assert f"recorded {job}:v1" in command("launch", "--", sys.executable, "train.py").stderr
    submitted = command("submit", job, "--set", "lr=0.2")
    assert submitted.returncode == 0, submitted.stderr
    assert config_of(command, submitted.stdout) == {"lr": 0.2, "model": {"width": 8}}
    wrong = command("submit", job, "--set", "lrr=0.2")
    assert wrong.returncode == 2


def test_the_first_launch_of_a_job_takes_any_parameters(command, tmp_path):
    (tmp_path / "config.yaml").write_text("epochs: 3\nlr: 0.5\n")
    options = ("--job", "unknown-parameters", "--config", str(tmp_path / "config.yaml"), "--set", "lr=0.2")
    launched = command("launch", *options, "--", sys.executable, "train.py")
    assert "recorded unknown-parameters:v0" in launched.stderr
    assert config_of(command, launched.stdout) == {"epochs": 3, "lr": 0.2}
    again = command("launch", "--job", "unknown-parameters", "--", sys.executable, "train.py")
    assert "unchanged unknown-parameters:v0" in again.stderr
    submitted = command("submit", "unknown-parameters", "--set", "other=1")
    assert config_of(command, submitted.stdout) == {"other": 1}


def test_what_is_wrong_with_a_launch_is_told_before_anything_is_recorded(command, stack):
    done = command("launch", "--job", "never-made", "--set", "lr", "--", sys.executable, "train.py")
    assert done.returncode == 2
    with stack.client() as client, pytest.raises(NotFound):
        client.jobs.get("never-made")
