"""Jobs with a Dockerfile: recorded, built, run, and with another one where the queue allows it."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from towline.client import Client
from towline.v1 import queues_pb2
from towline_testing.command import towline
from towline_testing.engine import base_image
from towline_testing.stack import Stack

pytestmark = [pytest.mark.docker, pytest.mark.postgres, pytest.mark.timeout(300)]

Command = Callable[..., "subprocess.CompletedProcess[str]"]
PROGRAM = """\
import json, os, pathlib
print(pathlib.Path("/said").read_text().strip(), os.getcwd(), os.getuid())
print(json.loads(pathlib.Path("conf.json").read_text()))
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "train.py").write_text(PROGRAM)
    (folder / "sub" / "conf.json").write_text('{"lr": 1}')
    subprocess.run(["git", "init", "--quiet", folder], check=True)  # so that it is the root of the source
    said = f"RUN echo {uuid4().hex[:8]}-$WORD > /said"
    text = f"FROM {base_image()}\nARG WORD=plain\n{said}\nWORKDIR /srv\nCOPY . .\n"
    (folder / "Dockerfile.towline").write_text(text + "USER 4321\n")
    (folder / "other.Dockerfile").write_text(text.replace("-$WORD", "-other"))
    return folder


@pytest.fixture
def overridable(client: Client) -> Iterator[str]:
    """A queue of the agent that lets submissions say how images are built."""
    before = client.queues.get("default").spec
    changed = queues_pb2.QueueSpec()
    changed.CopyFrom(before)
    changed.docker.image.dockerfile_override = True
    client.queues.update("default", changed)
    yield "default"
    client.queues.update("default", before)


@pytest.fixture
def command(stack: Stack, project: Path) -> Command:
    def command(*words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = towline(*words, env=stack.client_environment, cwd=project / "sub")
        assert done.returncode == code, (words, done.stdout, done.stderr)
        return done

    return command


def test_a_job_runs_in_what_its_dockerfile_makes(client: Client, command: Command) -> None:
    recorded = ("job", "create", "code", "--name", "own-image", "--config-file", "c=conf.json")
    command(*recorded, "--build-arg", "WORD=given", "--", "python", "train.py")
    shown = command("job", "show", "own-image").stdout
    assert "Dockerfile.towline" in shown and "WORD=given" in shown

    ran = command("submit", "own-image", "--set", "c.lr=2", "--follow")
    said, config = ran.stdout.splitlines()
    assert said.endswith("-given /srv/sub 4321") and config == "{'lr': 2}", ran.stdout
    (run,) = [run for run in client.runs.list() if run.job_version == "jobs/own-image/versions/v0"]
    log = command("run", "logs", "--build", run.name.removeprefix("runs/")).stdout
    assert "towline: building Dockerfile.towline with BuildKit" in log and "COPY . ." in log

    refused = command("submit", "own-image", "--build-arg", "WORD=mine", code=2).stderr
    assert "run.dockerfile" in refused and "docker.image.dockerfile_override" in refused


def test_a_queue_may_let_submissions_have_another_one(
    client: Client, command: Command, overridable: str
) -> None:
    command("job", "create", "code", "--name", "own-images", "--", "python", "train.py")

    def said(*how: str) -> str:
        return command("submit", "own-images", "-q", overridable, "--follow", *how).stdout.splitlines()[0]

    assert said("--build-arg", "WORD=mine").endswith("-mine /srv/sub 4321")
    assert said("--dockerfile", "other.Dockerfile").endswith("-other /srv/sub 0")
    failed = command("submit", "own-images", "-q", overridable, "--follow", "--dockerfile", "none", code=1)
    assert "the source tree has no file none" in failed.stderr


def test_programs_that_are_recorded_as_they_run_have_it_too(
    client: Client, command: Command, stack: Stack, project: Path
) -> None:
    (project / "sub" / "plain.py").write_text("")
    command("track", "--name", "own-tracked", "--build-arg", "WORD=x", "--", sys.executable, "plain.py")
    tracked = client.jobs.get("own-tracked").spec.dockerfile
    assert (tracked.path, dict(tracked.build_args)) == ("Dockerfile.towline", {"WORD": "x"})

    told = 'import towline\ntowline.init({}, job="own-told", dockerfile="../other.Dockerfile")\n'
    (project / "sub" / "told.py").write_text(told)
    subprocess.run([sys.executable, "told.py"], cwd=project / "sub", env=stack.client_environment, check=True)
    assert client.jobs.get("own-told").spec.dockerfile.path == "other.Dockerfile"
