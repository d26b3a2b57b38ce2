"""Jobs that W&B's own SDK wrote are imported and run, with real wandb in their containers."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from towline.client import Client
from towline.v1 import runs_pb2
from towline_testing.command import towline
from towline_testing.engine import base_image
from towline_testing.jobs import submission
from towline_testing.stack import Stack

pytestmark = [pytest.mark.docker, pytest.mark.postgres, pytest.mark.timeout(600)]

SAMPLES: Final = Path(__file__).resolve().parents[1] / "data" / "wandb-jobs"
LOGGED_CODE: Final = SAMPLES / "core-autojob-artifact_code_artifact"

Import = Callable[..., dict[str, Any]]


@pytest.fixture
def imported(stack: Stack) -> Import:
    """Import a job; gives what the command told."""

    def imported(folder: Path, *options: str | Path) -> dict[str, Any]:
        done = towline("job", "import-wandb", folder, "--json", *options, env=stack.client_environment)
        assert done.returncode == 0, done.stderr
        told: dict[str, Any] = json.loads(done.stdout)
        return told

    return imported


def checkout(tmp_path: Path) -> Path:
    """Make the tree of the repository, as it was at the commit, of what W&B logged of it."""
    jobs = tmp_path / "checkout" / "jobs"
    shutil.copytree(LOGGED_CODE, jobs)
    script = jobs / "train2.py"
    script.write_text(script.read_text().removesuffix("# dirty change\n"))
    return jobs.parent


def test_samples_with_their_code_run_with_the_parameters_of_the_submission(
    imported: Import, client: Client, tmp_path: Path
) -> None:
    told = [
        imported(SAMPLES / "core-autojob-artifact", "--code", LOGGED_CODE, "--name", "logged"),
        imported(SAMPLES / "core-autojob-repo_save_code", "--code", checkout(tmp_path), "--name", "patched"),
        imported(
            SAMPLES / "python-jobbuilder-repo", "--code", checkout(tmp_path / "2"), "--name", "unlisted"
        ),
    ]
    parameters: list[dict[str, Any]] = [{"lr": 0.7251}, {"lr": 0.7252, "nested": {"flag": False}}, {}]

    runs = [
        client.runs.submit(submission(each["job_version"]["name"].split("/")[1], **some)).name
        for each, some in zip(told, parameters, strict=True)
    ]
    ended = [client.runs.wait(run) for run in runs]

    assert [run.state for run in ended] == [runs_pb2.RUN_STATE_SUCCEEDED] * 3, ended
    for number, (run, some) in enumerate(zip(ended, parameters, strict=True)):
        kept = tmp_path / f"outputs{number}"
        client.runs.outputs(run.name, kept)
        (offline,) = kept.glob("wandb/offline-run-*/*.wandb")  # what `wandb sync` takes
        written = offline.read_bytes()
        assert b"loss" in written
        for value in map(str, some.values()):
            assert not value.startswith("0.") or value.encode() in written


def test_an_image_runs_with_its_arguments(
    imported: Import, client: Client, stack: Stack, tmp_path: Path
) -> None:
    arguments = ["python", "-c", "import os; print(open(os.environ['TOWLINE_CONFIG']).read())"]
    job = {
        "_version": "v0",
        "source_type": "image",
        "source": {"image": base_image(), "args": arguments},
        "input_types": {"wb_type": "typedDict", "params": {"type_map": {"lr": {"wb_type": "number"}}}},
        "runtime": "",
    }
    (tmp_path / "wandb-job.json").write_text(json.dumps(job))

    told = imported(tmp_path, "--name", "image")
    run = client.runs.wait(client.runs.submit(submission("image", lr=3)).name)

    assert run.state == runs_pb2.RUN_STATE_SUCCEEDED, run
    assert told["job_version"]["spec"]["entrypoint"] == arguments
    assert b'{"lr":3}' in b"".join(piece.data for piece in client.logs.tail(run.name)).replace(b" ", b"")


def test_what_was_repaired_and_left_out_is_listed_for_people(stack: Stack, tmp_path: Path) -> None:
    folder = tmp_path / "job"
    shutil.copytree(SAMPLES / "core-autojob-repo_save_code", folder)
    job = json.loads((folder / "wandb-job.json").read_text())
    job["source"]["dockerfile"] = "Dockerfile.gpu"
    (folder / "wandb-job.json").write_text(json.dumps(job))

    done = towline("job", "import-wandb", folder, "--name", "told", env=stack.client_environment)
    again = towline("job", "import-wandb", folder, "--name", "told", env=stack.client_environment)
    wrong = towline(
        *("job", "import-wandb", SAMPLES / "core-autojob-artifact", "--json"), env=stack.client_environment
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("imported told:v0\nrepaired:\n  source.entrypoint: 'pythonCPython 3.11'")
    assert re.search(r"\nnot carried over:\n  source.dockerfile: Dockerfile.gpu: Towline builds", done.stdout)
    assert again.stdout.startswith("unchanged told:v0\n")
    assert wrong.returncode == 2
    error = json.loads(wrong.stderr)["error"]
    assert error["metadata"] == {"file": "wandb-job.json", "field": "source.artifact"}
