"""Programs that know nothing of Towline are tracked and run again by an agent; what runs leave is on them."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from towline.client import Client
from towline.v1 import runs_pb2
from towline_testing.command import towline
from towline_testing.jobs import submission
from towline_testing.stack import Stack

pytestmark = [pytest.mark.docker, pytest.mark.postgres, pytest.mark.timeout(300)]

PLAIN = """
import argparse, json, sys
parser = argparse.ArgumentParser()
parser.add_argument("--lr", type=float)
parser.add_argument("--layers", type=int, nargs="+")
parser.add_argument("--name", default="none")
print(vars(parser.parse_args()), json.load(open("conf/model.json"))["width"], sys.argv[1:], flush=True)
"""


def log_of(client: Client, run: runs_pb2.Run) -> str:
    return b"".join(piece.data for piece in client.logs.tail(run.name)).decode()


def test_an_unmodified_script_is_tracked_and_runs_with_other_arguments(
    stack: Stack, client: Client, training_python: Path, tmp_path: Path
) -> None:
    project = tmp_path / "tracked"
    (project / "conf").mkdir(parents=True)
    (project / "train.py").write_text(PLAIN)
    (project / "conf/model.json").write_text('{"width": 8}')
    arguments = ["--lr", "1e-3", "--layers", "4", "8", "--name=plain"]
    track = (training_python.with_name("towline"), "track")
    tracked = subprocess.run(
        [*track, "--config", "conf/model.json", "--", training_python, "train.py", *arguments],
        cwd=project,
        env=stack.client_environment,
        capture_output=True,
        text=True,
        check=True,
    )
    here = "{'lr': 0.001, 'layers': [4, 8], 'name': 'plain'} 8 " + f"{arguments}\n"
    assert tracked.stdout == here
    assert "towline: recorded tracked-train:v0" in tracked.stderr, tracked.stderr

    again = client.runs.wait(client.runs.submit(submission("tracked-train")).name)
    changes = ["--set", "lr=0.5", "--set", "layers=[1, 2, 3]", "--set", "model.width=16"]
    submitted = towline("submit", "tracked-train", *changes, env=stack.client_environment)
    assert submitted.returncode == 0, submitted.stderr
    other = client.runs.wait(submitted.stdout.strip())

    assert (again.state, other.state) == (runs_pb2.RUN_STATE_SUCCEEDED,) * 2, (again, other)
    assert log_of(client, again) == here
    changed = ["--lr", "0.5", "--layers", "1", "2", "3", "--name=plain"]
    assert log_of(client, other) == "{'lr': 0.5, 'layers': [1, 2, 3], 'name': 'plain'} 16 " + f"{changed}\n"


RESULTS = """
import argparse, pathlib, towline
parser = argparse.ArgumentParser()
parser.add_argument("--lr", type=float, default=0.1)
parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("model.bin"))
arguments = parser.parse_args()
run = towline.init(args=arguments, job="leaves")
data = run.use_artifact("leaves-data:v0", name="data") / "a.csv"
print(arguments.lr, arguments.out, data.read_text())
pathlib.Path("/tmp/model.bin").write_text(str(arguments.lr))
run.summary["lr"] = arguments.lr
run.summary["nested"] = {"deep": [1, 2]}
run.log_artifact("/tmp/model.bin", name="leaves-model", type="model", aliases=["newest"])
"""


def test_what_a_run_reads_and_leaves_is_on_the_run(
    stack: Stack, client: Client, record: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOWLINE_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "a.csv").write_text("1,2")
    client.artifacts.upload(tmp_path / "a.csv", "leaves-data", "dataset")
    job = record("leaves", RESULTS)
    (given,) = client.jobs.get(job).spec.inputs
    assert (given.name, given.artifact) == ("data", "artifacts/leaves-data/versions/v0")
    recorded = client.artifacts.get("leaves-model")
    assert recorded.producer_job_version == "jobs/leaves/versions/v0"

    run = client.runs.wait(client.runs.submit(submission(job, lr=0.5, out="b.bin")).name)

    assert run.state == runs_pb2.RUN_STATE_SUCCEEDED, run
    assert log_of(client, run) == "0.5 b.bin 1,2\n"
    assert json.loads(run.summary_json) == {"lr": 0.5, "nested": {"deep": [1, 2]}}
    assert list(run.logged_artifacts) == ["artifacts/leaves-model/versions/v1"]
    made = client.artifacts.get("leaves-model:newest")
    assert (made.name, made.producer_run) == (run.logged_artifacts[0], run.name)
    assert {use.run for use in client.artifacts.lineage("leaves-data:v0").uses} == {"", run.name}
