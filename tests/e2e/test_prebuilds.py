"""Images before anybody needs them: `towline job build`, and queues that have new versions built."""

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Final
from uuid import uuid4

import pytest

from towline.client import ENDED_STATES, Client
from towline.v1 import jobs_pb2, runs_pb2
from towline_testing.command import towline
from towline_testing.engine import docker
from towline_testing.jobs import code_job, submission, upload_tar
from towline_testing.stack import Stack
from towline_testing.waiting import eventually

pytestmark = [pytest.mark.docker, pytest.mark.postgres, pytest.mark.timeout(300)]

Command = Callable[..., "subprocess.CompletedProcess[str]"]

SUCCEEDED: Final = runs_pb2.RUN_STATE_SUCCEEDED
REUSED: Final = runs_pb2.IMAGE_OUTCOME_REUSED
# A project whose installation goes on once somebody lets it.
SLOW: Final = {
    "pyproject.toml": b'[build-system]\nrequires = []\nbuild-backend = "slow"\nbackend-path = ["."]\n',
    "slow.py": b"""
import pathlib, time, zipfile
def build_editable(folder, settings=None, metadata=None):
    while not pathlib.Path("/tmp/go").exists(): time.sleep(0.05)
    name = "slow-1-py3-none-any.whl"
    with zipfile.ZipFile(pathlib.Path(folder) / name, "w") as wheel:
        wheel.writestr("slow-1.dist-info/METADATA", "Metadata-Version: 2.1\\nName: slow\\nVersion: 1\\n")
        kind = "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n"
        wheel.writestr("slow-1.dist-info/WHEEL", kind)
        wheel.writestr("slow-1.dist-info/RECORD", "")
    return name
""",
}


@pytest.fixture
def command(stack: Stack, tmp_path: Path) -> Command:
    def command(*words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = towline(*words, env=stack.client_environment, cwd=tmp_path)
        assert done.returncode == code, (words, done.stdout, done.stderr)
        return done

    return command


def test_a_job_is_built_and_its_runs_find_the_image(client: Client, command: Command) -> None:
    code_job(client, "early", f"print('{uuid4().hex}'); raise SystemExit(3)")
    built = command("job", "build", "early")
    assert re.search(r"^towline: built towline/job:\w+$", built.stdout, re.MULTILINE)
    assert " preparing" in built.stderr and " image built (" in built.stderr
    (run,) = [run for run in client.runs.list() if run.display_name.startswith("build-early-")]
    assert (run.state, run.build_only, run.attempts[0].HasField("exit_code")) == (SUCCEEDED, True, False)
    assert command("run", "logs", run.name.removeprefix("runs/")).stdout == built.stdout
    assert re.search(r"^only +builds", command("run", "show", run.name.removeprefix("runs/")).stdout, re.M)

    ended = client.runs.wait(client.runs.submit(submission("early")).name)
    assert (ended.attempts[0].image_outcome, ended.attempts[0].exit_code) == (REUSED, 3)
    again = json.loads(command("job", "build", "early", "--no-follow", "--json").stdout)
    assert client.runs.wait(again["name"]).attempts[0].image_outcome == REUSED
    assert ended.name.removeprefix("runs/") in command("job", "delete", "early:v0", code=4).stderr


def test_what_cannot_be_built_says_so(client: Client, command: Command) -> None:
    code_job(client, "unbuildable", "", requirements=("towline-no-such-package==9.9",))
    failed = command("job", "build", "unbuildable", code=1)
    assert "towline-no-such-package" in failed.stdout
    assert "image build: " in failed.stderr and "towline-no-such-package" in failed.stderr
    assert "\n  | " not in failed.stderr, "its log is on standard output already"
    command("job", "delete", "unbuildable:v0")  # that it was built once does not keep it
    assert "there is no job 'nobody'" in command("job", "build", "nobody", code=2).stderr


def test_an_agent_killed_as_it_builds_goes_on_with_it(client: Client, stack: Stack) -> None:
    mark = uuid4().hex
    digest, size = upload_tar(client, SLOW | {mark: b""})
    spec = jobs_pb2.JobSpec(
        code=jobs_pb2.CodeSource(digest=digest, size_bytes=size),
        entrypoint=["python", "main.py"],
        python=jobs_pb2.PythonEnvironment(version="3.11", editables=["."]),
    )
    client.jobs.create_version("slow", spec)
    wanted = submission("slow")
    wanted.build_only = True
    run = client.runs.submit(wanted)
    first = eventually(lambda: _installing(mark), within=60)
    stack.kill("agent")
    stack.start("agent")
    second = eventually(lambda: [one for one in _installing(mark) if one not in first], within=60)
    docker("exec", second[0], "touch", "/tmp/go")
    eventually(lambda: client.runs.get(run.name).state in ENDED_STATES, within=60)
    ended = client.runs.get(run.name)
    assert (ended.state, len(ended.attempts)) == (SUCCEEDED, 1), ended
    eventually(lambda: not _installing(mark))


def _installing(mark: str) -> list[str]:
    """Containers in which a project with this file is being installed."""
    found = docker("ps", "--quiet", "--filter=label=towline.builder").split()
    looks = {one: ["docker", "exec", one, "test", "-e", f"/workspace/{mark}"] for one in found}
    # Others come and go meanwhile.
    found_in = {one: subprocess.run(look, capture_output=True, check=False) for one, look in looks.items()}
    return [one for one, look in found_in.items() if look.returncode == 0]


def test_a_queue_has_new_versions_built(client: Client, command: Command) -> None:
    spec = client.queues.get("default").spec
    command("queue", "update", "default", "--prebuild", "ahead-*")
    try:
        assert "prebuild:\n- ahead-*\n" in command("queue", "show", "default").stdout
        code_job(client, "ahead-1", f"print('{uuid4().hex}')")
        wanted = runs_pb2.RunFilter(job="jobs/ahead-1")
        (build,) = eventually(lambda: list(client.runs.list(wanted)))
        assert build.build_only and client.runs.wait(build.name).state == SUCCEEDED
        ended = client.runs.wait(client.runs.submit(submission("ahead-1")).name)
        assert (ended.state, ended.attempts[0].image_outcome) == (SUCCEEDED, REUSED)
    finally:
        client.queues.update("default", spec)
