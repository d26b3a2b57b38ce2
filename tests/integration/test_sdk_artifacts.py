"""What a program reads and logs: in a container, and where it is recorded."""

import json
import os
import subprocess
import sys

import pytest

from towline_testing.checkouts import git_checkout
from towline_testing.shipped import shipped


@pytest.fixture
def container(tmp_path):
    """Run code as in a container: the shipped files, the standard library, an agent's variables."""
    runtime = shipped(tmp_path / "runtime")
    for folder in ("results", "artifacts", "inputs/digits"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "inputs/digits/a.csv").write_text("1,2")
    (tmp_path / "config.json").write_text('{"lr": 0.5}')
    (tmp_path / "inputs.json").write_text('{"digits": "artifacts/mnist/versions/v3"}')

    def run(code, **variables):
        (tmp_path / "main.py").write_text(f"import towline\n{code}")
        return subprocess.run(
            [sys.executable, "-S", "main.py"],
            cwd=tmp_path,
            env={
                "PYTHONPATH": str(runtime),
                "TOWLINE_CONFIG": str(tmp_path / "config.json"),
                "TOWLINE_OUTPUTS": str(tmp_path / "out"),
                "TOWLINE_INPUTS": str(tmp_path / "inputs"),
                "TOWLINE_INPUTS_FILE": str(tmp_path / "inputs.json"),
                "TOWLINE_SUMMARY": str(tmp_path / "results/summary.json"),
                "TOWLINE_ARTIFACTS": str(tmp_path / "artifacts"),
            }
            | variables,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    return run


def test_inputs_are_found_by_their_name_and_by_the_artifact_they_are(container, tmp_path):
    code = """
run = towline.init()
uses = (("digits:v1", None), ("mnist", None), ("other:best", "digits"), ("artifacts/mnist", None))
for artifact, name in uses:
    print((run.use_artifact(artifact, name) / "a.csv").read_text())
"""
    done = container(code)
    assert (done.stdout, done.stderr) == ("1,2\n" * 4, "")


@pytest.mark.parametrize(
    ("call", "problem"),
    [
        (
            "run.use_artifact('faces:best')",
            "'faces' is no input of this run; its inputs: digits (artifacts/mnist/versions/v3). Add it when "
            "you submit: towline submit … --input faces=faces:best",
        ),
        ("run.use_artifact('a b')", "'a b' names no artifact; write NAME:VERSION or NAME:ALIAS"),
        ("run.use_artifact('mnist', '.x')", "name: '.x' is no name"),
        ("run.log_artifact('nowhere')", "path: there is no nowhere; give a file or a folder that exists"),
        ("run.log_artifact('.', name='a b')", "name: 'a b' is no name"),
        ("run.log_artifact('.', name='a', type='Big Model')", "type: 'Big Model' is no lower-case word"),
        ("run.log_artifact('.', name='a', aliases=['x/y'])", "aliases: 'x/y' is no name"),
        ("run.log_artifact('.', name='a', metadata={'f': len})", "metadata: JSON cannot hold it"),
        (
            "run.log_artifact('.', name='a', metadata={'f': 'x' * 70000})",
            "metadata: is more than 65536 bytes",
        ),
    ],
)
def test_what_is_asked_wrongly_is_an_error_that_says_what_to_do(container, call, problem):
    done = container(
        f"run = towline.init()\ntry:\n    {call}\nexcept Exception as e:\n    print(type(e).__name__, e)"
    )
    assert problem in done.stdout, done.stderr


def test_what_a_program_logs_lies_where_the_agent_looks(container, tmp_path):
    code = """
import os, pathlib
run = towline.init()
out = pathlib.Path("model"); (out / "deep").mkdir(parents=True)
(out / "w.bin").write_bytes(b"w" * 3)
(out / "deep/run.sh").write_text("#!"); (out / "deep/run.sh").chmod(0o755)
os.symlink("w.bin", out / "link"); os.symlink("deep", out / "folder"); os.mkfifo(out / "pipe")
run.log_artifact(out, type="model", aliases="best", metadata={"acc": 0.5})
run.log_artifact("model/w.bin", name="weights")
run.summary["accuracy"] = 0.5
"""
    done = container(code)
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == "towline: model/pipe is not kept: only files and folders are\n"
    first, second = sorted((tmp_path / "artifacts").iterdir())
    assert json.loads((first / "manifest.json").read_text()) == {
        "name": "model",
        "type": "model",
        "aliases": ["best"],
        "metadata": {"acc": 0.5},
    }
    files = {str(file.relative_to(first)) for file in first.rglob("*") if file.is_file()}
    assert files == {"files/w.bin", "files/deep/run.sh", "files/link", "manifest.json"}
    assert (first / "files/link").read_bytes() == b"www"
    assert not (first / "files/link").is_symlink()
    assert os.access(first / "files/deep/run.sh", os.X_OK)
    assert json.loads((second / "manifest.json").read_text())["name"] == "weights"
    assert [file.name for file in (second / "files").iterdir()] == ["w.bin"]
    assert json.loads((tmp_path / "results/summary.json").read_text()) == {"accuracy": 0.5}


def test_a_disk_that_is_full_is_one_line_and_leaves_nothing_half(container, tmp_path):
    (tmp_path / "big").write_bytes(bytes(2**21))
    code = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))
import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
run = towline.init()
run.log_artifact("big")
print("goes on")
"""
    done = container(code)
    assert (done.returncode, done.stdout) == (0, "goes on\n")
    assert done.stderr.startswith("towline: the artifact big is not kept: [Errno 27] File too large")
    assert list((tmp_path / "artifacts").iterdir()) == []


def test_ranks_above_zero_leave_the_results_to_rank_zero(container, tmp_path):
    container("towline.init().summary['rank'] = 1", RANK="1")
    assert list((tmp_path / "results").iterdir()) == []
    container("towline.init().summary['rank'] = 0", RANK="0")
    assert json.loads((tmp_path / "results/summary.json").read_text()) == {"rank": 0}


@pytest.fixture
def variables(endpoints, tmp_path):
    (tmp_path / "tmp").mkdir()
    return {
        "TOWLINE_REGISTRY_ADDRESS": endpoints.registry,
        "TOWLINE_QUEUE_ADDRESS": endpoints.queue,
        "TOWLINE_CACHE_DIR": str(tmp_path / "cache"),
        "TMPDIR": str(tmp_path / "tmp"),
    }


@pytest.fixture
def project(tmp_path):
    return git_checkout(tmp_path / f"project-{os.urandom(3).hex()}")


@pytest.fixture
def dataset(client, tmp_path):
    """A dataset with two versions; `best` is the first."""
    name = f"digits-{os.urandom(3).hex()}"
    (tmp_path / "data/deep").mkdir(parents=True)
    (tmp_path / "data/deep/a.csv").write_text("1,2")
    client.artifacts.upload(tmp_path / "data", name, "dataset")
    client.artifacts.set_alias(f"{name}:v0", "best")
    (tmp_path / "data/deep/a.csv").write_text("3,4")
    client.artifacts.upload(tmp_path / "data", name, "dataset")
    return name


USES = """
import sys, towline
run = towline.init({"lr": 0.1})
name = sys.argv[1]
print((run.use_artifact(f"{name}:best", name="train") / "deep/a.csv").read_text())
print((run.use_artifact(name) / "deep/a.csv").read_text())
run.summary["accuracy"] = 0.5
run.summary["eval"] = {"loss": [1.0, 2.0], "n": 3}
open("model.bin", "w").write("w")
run.log_artifact("model.bin", name=f"model-{name}", type="model", aliases=["best"], metadata={"acc": 0.5})
"""


def test_a_recorded_run_has_its_inputs_results_and_artifacts(client, project, variables, dataset, tmp_path):
    project.commit({"train.py": USES, ".gitignore": "*.bin"})
    done = project.python("train.py", dataset, **variables)
    assert (done.returncode, done.stdout) == (0, "1,2\n3,4\n"), done.stderr
    job = f"{project.root.name}-train"
    assert done.stderr == (
        f"towline: recorded {job}:v0 (submit it: towline submit {job}); logged model-{dataset}:v0\n"
    )
    version = client.jobs.get(job)
    assert {each.name: each.artifact for each in version.spec.inputs} == {
        "train": f"artifacts/{dataset}/versions/v0",
        dataset: f"artifacts/{dataset}/versions/v1",
    }
    schema = json.loads(version.spec.provenance.result_schema_json)
    assert schema["properties"] == {
        "accuracy": {"type": "number"},
        "eval": {
            "type": "object",
            "properties": {"loss": {"type": "array", "items": {"type": "number"}}, "n": {"type": "integer"}},
        },
    }
    model = client.artifacts.get(f"model-{dataset}:best")
    assert (model.type, model.producer_job_version) == ("model", version.name)
    assert json.loads(model.metadata_json) == {"acc": 0.5}
    assert [file.path for file in model.files] == ["model.bin"]
    (use,) = client.artifacts.lineage(f"{dataset}:v0").uses
    assert (use.run, use.job_version) == ("", version.name)
    assert not list((tmp_path / "tmp").iterdir())
    # One name for two of them is told, and the first one is it.
    project.write({"twice.py": USES.replace(', name="train"', "")})
    twice = project.python("twice.py", dataset, **variables).stderr
    assert (
        f"two artifacts were read as the input {dataset}; the job has artifacts/{dataset}/versions/v0"
        in twice
    )
    # What is in the cache needs no registry, and nobody writes to it.
    cached = tmp_path / "cache/artifacts" / dataset / "v0/deep/a.csv"
    assert cached.stat().st_mode & 0o222 == 0
    project.write({"again.py": USES.replace("{name}:best", "{name}:v0").replace("(name)", "(name + ':v1')")})
    away = {"TOWLINE_REGISTRY_ADDRESS": "127.0.0.1:1", "TOWLINE_RECORD": "0"}
    assert project.python("again.py", dataset, **(variables | away)).stdout == "1,2\n3,4\n"


@pytest.mark.parametrize(
    ("artifact", "address", "problem"),
    [
        ("never-made:v0", None, "NotFound"),
        ("digits:v0", "127.0.0.1:1", "Unavailable the registry at 127.0.0.1:1 cannot be reached"),
    ],
)
def test_an_artifact_that_cannot_be_had_is_an_error(project, variables, artifact, address, problem):
    code = f"""
import towline
try:
    towline.init(record=False).use_artifact("{artifact}")
except Exception as error:
    print(type(error).__name__, error)
"""
    project.commit({"train.py": code})
    where = {"TOWLINE_REGISTRY_ADDRESS": address} if address else {}
    done = project.python("train.py", **(variables | where))
    assert done.stdout.startswith(problem), done.stderr


def test_a_file_with_parameters_is_part_of_the_job(client, project, variables):
    script = """
import towline
files = {"model": "conf/m.yaml", "lr": "conf/m.yaml", "gone": "no.json", "m": "conf/m.yaml"}
towline.init({"lr": 1}, config_files=files)
"""
    project.commit({"train.py": script, "conf/m.yaml": "width: 8\nlayers: [1, 2]\n", "a.txt": ""})
    done = project.python("train.py", **variables)
    problems = [line for line in done.stderr.splitlines() if "is no parameter" in line]
    assert len(problems) == 3
    assert "there is a parameter lr already" in problems[0]
    assert "it does not exist" in problems[1]
    assert "it is another parameter's file already" in problems[2]
    spec = client.jobs.get(f"{project.root.name}-train").spec
    assert json.loads(spec.config_json) == {"lr": 1, "model": {"width": 8, "layers": [1, 2]}}
    assert [(each.path, each.key) for each in spec.config_files] == [("conf/m.yaml", "model")]
