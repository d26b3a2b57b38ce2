"""Jobs that are recorded with the project's own lock."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from towline.client import Client
from towline.v1 import jobs_pb2
from towline_testing.checkouts import git_checkout
from towline_testing.command import towline

UV = Path(sys.executable).with_name("uv")


@pytest.fixture
def variables(endpoints, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/endpoints.json").write_text(json.dumps(endpoints._asdict() | {"agent": "unused"}))
    return {"TOWLINE_DATA_DIR": str(tmp_path / "data")}


@pytest.fixture
def tree(tmp_path, request):
    return git_checkout(tmp_path / request.node.originalname.removeprefix("test_").replace("_", "-"))


def spec(endpoints, job):
    with Client(endpoints) as client:
        return client.jobs.get(job).spec


def test_a_recording_takes_the_lock_it_is_given(endpoints, variables, tree):
    tree.commit(
        {
            "train.py": "import towline; towline.init(job='locked', lock='requirements.txt')",
            "requirements.txt": "six==1.17.0\nidna>=3\n",
        }
    )
    done = tree.python("train.py", **variables)
    assert "towline: recorded locked:v0" in done.stderr
    assert "towline: requirements.txt leaves versions open" in done.stderr and "idna" in done.stderr
    python = spec(endpoints, "locked").python
    assert python.lock.format == jobs_pb2.LOCK_FORMAT_REQUIREMENTS_TXT
    assert (list(python.requirements), python.complete) == ([], False)


def test_a_lock_that_is_none_is_told_and_the_program_goes_on(variables, tree):
    tree.commit({"train.py": "import towline; towline.init(lock='poetry.lock'); print('ran')"})
    done = tree.python("train.py", **variables)
    assert (done.returncode, done.stdout) == (0, "ran\n")
    (line,) = done.stderr.splitlines()
    assert line.startswith("towline: not recorded: lock:") and "poetry.lock is no lock" in line


def test_a_job_by_hand_takes_a_lock_of_uv_with_its_extras(endpoints, variables, tree):
    project = '[project]\nname = "fit"\nversion = "1"\nrequires-python = ">=3.11"\n'
    tree.write({"train.py": "", "pyproject.toml": project + "[dependency-groups]\nmore = []\n"})
    subprocess.run([UV, "lock", "--quiet", "--python", sys.executable], cwd=tree.root, check=True)
    create = ("job", "create", "code", "--name", "uvlocked", "--lock", "uv.lock")
    command = ("--", sys.executable, "train.py")
    done = towline(*create, "--extra", "slow", *command, cwd=tree.root, env=variables)
    assert done.returncode == 2
    assert "uv.lock has no extra or group slow" in done.stderr
    done = towline(*create, *command, cwd=tree.root, env=variables)
    assert done.returncode == 0, done.stderr
    assert spec(endpoints, "uvlocked").python.lock.format == jobs_pb2.LOCK_FORMAT_UV_LOCK


def test_options_that_contradict_each_other(variables, tree):
    tree.write({"train.py": "", "requirements.txt": "six==1.17.0\n"})
    command = ("job", "create", "code", "--extra", "x", "--", sys.executable, "train.py")
    done = towline(*command, cwd=tree.root, env=variables)
    assert (done.returncode, "--extra: goes with the --lock" in done.stderr) == (2, True), done.stderr
    both = ("--lock", "requirements.txt", "--requirements", "requirements.txt")
    done = towline(*command[:3], *both, *command[-3:], cwd=tree.root, env=variables)
    assert (done.returncode, "--lock: goes in place of --requirements" in done.stderr) == (2, True), (
        done.stderr
    )
