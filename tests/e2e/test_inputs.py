"""Artifacts that runs read and make, parameters that are checked, results in a table: on a whole Towline."""

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from towline.client import Client
from towline.v1 import jobs_pb2, runs_pb2
from towline_testing.command import towline
from towline_testing.engine import docker
from towline_testing.jobs import submission, upload_tar
from towline_testing.stack import Stack

pytestmark = [pytest.mark.docker, pytest.mark.postgres, pytest.mark.timeout(300)]

SUCCEEDED, FAILED = runs_pb2.RUN_STATE_SUCCEEDED, runs_pb2.RUN_STATE_FAILED

Command = Callable[..., CompletedProcess[str]]

TRAINS = """
import json, os, pathlib, sys
import towline

run = towline.init()
folder = run.use_artifact("digits")
print("read", sorted(path.name for path in folder.iterdir()), (folder / "train.csv").read_text())
for change in (lambda: (folder / "new").touch(), (folder / "train.csv").unlink):
    try:
        change()
    except OSError as error:
        print(error.strerror)
print("depth", json.load(open("conf/model.yaml"))["depth"], "width", run.config.model.width)
(run.outputs / "predictions.txt").write_text("0 1 2")
(run.outputs / "weights.bin").write_bytes(b"w" * 1000)
run.summary["acc"] = run.config.model.depth / 10
run.summary["loss"] = {"val": 0.5}
run.log_artifact(run.outputs / "weights.bin", name="digits-model", type="model", metadata={"depth": 4})
sys.exit(run.config.status)
"""
SCHEMA = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "status": {"type": "integer"},
        "epochs": {"type": "integer", "minimum": 1, "default": 3},
        "layers": {"type": "array", "items": {"type": "integer", "minimum": 1}},
        "model": {
            "type": "object",
            "properties": {"depth": {"type": "integer", "maximum": 9}, "width": {"type": "integer"}},
        },
    },
}


@pytest.fixture
def command(stack: Stack) -> Command:
    def run(*arguments: str | Path) -> CompletedProcess[str]:
        return towline(*arguments, env=stack.client_environment, within=110)

    return run


def training_job(client: Client, name: str) -> str:
    digest, size = upload_tar(
        client, {"main.py": TRAINS.encode(), "conf/model.yaml": b"depth: 2\\nwidth: 8\\n"}
    )
    spec = jobs_pb2.JobSpec(
        code=jobs_pb2.CodeSource(digest=digest, size_bytes=size),
        entrypoint=["python", "main.py"],
        python=jobs_pb2.PythonEnvironment(version="3.11"),
        config_json='{"status": 0, "model": {"depth": 2, "width": 8}}',
        input_schema_json=json.dumps(SCHEMA),
        inputs=[jobs_pb2.ArtifactInput(name="digits", artifact="artifacts/digits/versions/latest")],
        config_files=[jobs_pb2.ConfigFile(path="conf/model.yaml", key="model")],
    )
    client.jobs.create_version(name, spec)
    return name


@pytest.fixture
def digits(client: Client, tmp_path: Path) -> str:
    """Put a data set into the registry; return its version."""
    folder = tmp_path / "digits"
    (folder / "deep").mkdir(parents=True)
    (folder / "train.csv").write_text("1,2,3")
    (folder / "deep" / "test.csv").write_text("4")
    return client.artifacts.upload(folder, "digits", "dataset").artifact_version.name


def log_of(client: Client, run: str) -> str:
    return b"".join(piece.data for piece in client.logs.tail(run)).decode()


def volumes(stack: Stack, digest: str) -> list[str]:
    """Return those of the stack's agent: other sessions may have the same data."""
    instance = json.loads((stack.folder / stack.agent / "agent.json").read_text())["instance_id"]
    labels = (f"towline.input={digest}", f"towline.input-owner={instance}")
    return docker("volume", "ls", "--quiet", *(f"--filter=label={label}" for label in labels)).split()


def test_a_run_reads_its_inputs_and_keeps_its_results_also_when_it_fails(
    stack: Stack, client: Client, command: Command, digits: str
) -> None:
    job = training_job(client, "reads")
    first = client.runs.wait(client.runs.submit(submission(job, model={"depth": 4})).name)
    log = log_of(client, first.name)
    assert first.state == SUCCEEDED, (first, log)
    assert "read ['deep', 'train.csv'] 1,2,3\n" + "Read-only file system\n" * 2 in log
    assert "depth 4 width 8" in log
    assert json.loads(first.config_json) == {"status": 0, "model": {"depth": 4, "width": 8}, "epochs": 3}
    assert {one.name: one.artifact for one in first.inputs} == {"digits": digits}
    assert json.loads(first.summary_json) == {"acc": 0.4, "loss": {"val": 0.5}}
    (model,) = first.logged_artifacts
    (volume,) = volumes(stack, client.artifacts.get(digits).digest)

    failed = client.runs.wait(client.runs.submit(submission(job, status=3)).name)
    assert failed.state == FAILED and failed.failure.exit_code == 3, log_of(client, failed.name)
    assert {file.path for file in client.artifacts.get(failed.outputs).files} == {
        "predictions.txt",
        "weights.bin",
    }
    assert json.loads(failed.summary_json)["acc"] == 0.2
    assert list(failed.logged_artifacts) == [model]  # the same content is the same version
    assert volumes(stack, client.artifacts.get(digits).digest) == [volume]

    page = command("run", "show", first.name).stdout
    for fact in ("digits: digits:v", "acc: 0.4", "digits-model:v0", "depth: 4"):
        assert fact in page, page
    table = command("run", "list", "--job", job, "--summary", "acc,loss.val").stdout.splitlines()
    assert table[0].split()[-2:] == ["acc", "loss.val"]
    assert [line.split()[-2:] for line in table[1:]] == [["0.2", "0.5"], ["0.4", "0.5"]]
    listed = json.loads(command("run", "list", "--job", job, "--summary", "acc", "--json").stdout)
    assert [run["summary"] for run in listed] == [{"acc": 0.2}, {"acc": 0.4}]


def test_a_submission_chooses_what_is_read(
    client: Client, command: Command, digits: str, tmp_path: Path
) -> None:
    job = training_job(client, "chooses")
    (tmp_path / "digits" / "train.csv").write_text("9,9,9")
    newer = client.artifacts.upload(tmp_path / "digits", "digits", "dataset").artifact_version.name
    assert newer != digits
    done = command(
        "submit", job, "--input", f"digits={digits.split('/')[1]}:{digits.split('/')[3]}", "--follow"
    )
    assert done.returncode == 0, done.stderr
    assert "['deep', 'train.csv'] 1,2,3" in done.stdout


def test_wrong_inputs_are_all_told_and_nothing_is_queued(
    client: Client, command: Command, digits: str
) -> None:
    job = training_job(client, "refuses")
    before = len(list(client.runs.list()))
    done = command(
        *("submit", job, "--set", "epochs=0", "--set", "layers=[1, 0, two]", "--set", "model.depth=12"),
        *("--set", "model.width=wide", "--set", "epoch=1"),
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert sorted(line.strip() for line in done.stderr.splitlines()) == [
        "epoch: unknown key; did you mean 'epochs'?",
        "epochs: must be at least 1, not 0",
        "error: the parameters do not fit the job:",
        "layers[1]: must be at least 1, not 0",
        'layers[2]: must be a whole number, not "two"',
        "model.depth: must be at most 9, not 12",
        'model.width: must be a whole number, not "wide"',
    ]
    missing = command("submit", job, "--input", "digits=nothing:v0", "--input", "more=digits:v99")
    assert missing.returncode == 2, missing
    assert "--input digits: " in missing.stderr and "--input more: " in missing.stderr
    assert command("submit", job, "--input", "digits").returncode == 2
    assert len(list(client.runs.list())) == before
