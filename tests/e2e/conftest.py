"""One whole Towline for the session, and projects to record runs from."""

import fcntl
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from towline.client import Client
from towline.v1 import docker_pb2, queues_pb2
from towline_testing.engine import remove_inputs
from towline_testing.postgres import EMBEDDED, running_postgres
from towline_testing.stack import Stack

ROOT: Final = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Registry, queue and agent as processes on PostgreSQL 18 and the machine's Docker Engine."""
    with running_postgres(EMBEDDED) as postgres:
        stack = Stack(tmp_path_factory.mktemp("stack"), postgres.url())
        try:
            stack.start("registry", "queue")
            with stack.client() as client:
                client.queues.create("default", default_queue())
            stack.start("agent")
            yield stack
        finally:
            stack.stop_all()
            remove_inputs(stack.folder / stack.agent)


def default_queue() -> queues_pb2.QueueSpec:
    return queues_pb2.QueueSpec(
        docker=docker_pb2.DockerTemplate(memory="{{memory}}"),
        variables=[
            queues_pb2.TemplateVariable(
                name="memory", schema_json='{"type": "string"}', default_json='"1GiB"'
            )
        ],
    )


@pytest.fixture
def client(stack: Stack) -> Iterator[Client]:
    with stack.client() as client:
        yield client


@pytest.fixture(scope="session")
def training_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment as a person trains in: small, with Towline's SDK and one library; nobody changes it."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base) / "training"
    folder.mkdir(exist_ok=True)
    # One for all workers: the first one makes it.
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "made").exists():
            _make_environment(folder / "venv")
            (folder / "made").touch()
    return folder / "venv/bin/python"


def _make_environment(folder: Path) -> None:
    uv = Path(sys.executable).with_name("uv")
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, folder], check=True)
    python = folder / "bin" / "python"
    constraints = ROOT / "requirements" / "dev.txt"
    command = [
        uv,
        "pip",
        "install",
        "--quiet",
        "--python",
        python,
        "--constraint",
        constraints,
        ROOT,
        "pyyaml",
    ]
    subprocess.run(command, check=True)


@pytest.fixture
def record(stack: Stack, training_python: Path, tmp_path: Path) -> Callable[..., str]:
    """Write a training script, run it here once, and return the job that was recorded."""

    def record(name: str, script: str, *, fails: bool = False) -> str:
        project = tmp_path / name
        project.mkdir()
        (project / "train.py").write_text(script)
        done = subprocess.run(
            [training_python, "train.py"],
            cwd=project,
            env=stack.client_environment,
            capture_output=True,
            errors="replace",
            check=False,
        )
        assert (done.returncode != 0) == fails, done.stderr
        assert f"recorded {name}:v0" in done.stderr, done.stderr
        return name

    return record
