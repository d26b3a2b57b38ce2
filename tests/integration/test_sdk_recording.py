"""Training scripts as people run them, recorded in a real registry."""

import json
import os
import signal
import subprocess
import sys
import tarfile
import time

import pytest

from towline_testing.checkouts import git_checkout, program_environment
from towline_testing.waiting import eventually

SNAPSHOT = "towline-recording-*/towline-source-*"
SCRIPT = """
import sys, towline
run = towline.init(config={"lr": 0.1, "model": {"width": 8}})
(run.outputs / "metrics.json").write_text("{}")
print(run.config.lr, sys.argv[1:])
"""


@pytest.fixture
def variables(endpoints, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/endpoints.json").write_text(json.dumps(endpoints._asdict() | {"agent": "unused"}))
    return {"TOWLINE_DATA_DIR": str(tmp_path / "data"), "TMPDIR": str(tmp_path)}


@pytest.fixture
def project(tmp_path, request):
    """A checkout whose folder names the test, so that jobs of tests do not meet."""
    name = request.node.originalname.removeprefix("test_").replace("_", "-")
    return git_checkout(tmp_path / f"{name}-{os.urandom(3).hex()}")


def job_of(project, script="train"):
    return f"{project.root.name}-{script}"


def recorded_files(client, version, tmp_path):
    client.blobs.download(version.spec.code.digest, tmp_path / "source.tar")
    with tarfile.open(tmp_path / "source.tar") as tar:
        return {member.name: tar.extractfile(member).read().decode() for member in tar}


def test_a_run_becomes_a_job_with_all_that_it_was(client, project, variables, tmp_path):
    commit = project.commit({"train.py": SCRIPT, ".gitignore": "*.log\n"})
    project.write({"helper.py": "x = 1", "a.log": "l"})
    done = project.python("train.py", "--epochs", "3", **variables)
    job = job_of(project)
    assert (done.returncode, done.stdout) == (0, "0.1 ['--epochs', '3']\n")
    assert done.stderr == f"towline: recorded {job}:v0 (submit it: towline submit {job})\n"
    version = client.jobs.get(job)
    spec = version.spec
    assert list(spec.entrypoint) == ["python", "train.py", "--epochs", "3"]
    assert json.loads(spec.config_json) == {"lr": 0.1, "model": {"width": 8}}
    assert spec.python.version == ".".join(map(str, sys.version_info[:3]))
    assert any(each.startswith("pytest==") for each in spec.python.requirements)
    assert not any(each.startswith("towline") for each in spec.python.requirements)
    assert (spec.provenance.git_commit, spec.provenance.git_dirty) == (commit, True)
    assert version.author
    assert recorded_files(client, version, tmp_path) == {
        ".gitignore": "*.log\n",
        "helper.py": "x = 1",
        "train.py": SCRIPT,
    }
    assert list(tmp_path.glob("towline-*")) == []


def test_the_same_run_again_is_unchanged_and_another_config_is_a_new_version(project, variables):
    project.commit({"train.py": SCRIPT})
    job = job_of(project)
    assert f"recorded {job}:v0" in project.python("train.py", **variables).stderr
    assert f"towline: unchanged {job}:v0" in project.python("train.py", **variables).stderr
    project.commit({"train.py": SCRIPT.replace("0.1", "0.2")})
    assert f"recorded {job}:v1" in project.python("train.py", **variables).stderr


def test_a_name_that_is_given_is_taken(project, variables):
    project.commit({"train.py": f"import towline; towline.init(job='{project.root.name}')"})
    assert f"recorded {project.root.name}:v0" in project.python("train.py", **variables).stderr


def test_the_source_is_the_one_at_the_start(client, project, variables, tmp_path):
    script = (
        "import pathlib, towline; towline.init(); input(); pathlib.Path('train.py').write_text('changed')"
    )
    project.commit({"train.py": script})
    with running(project, variables) as program:
        eventually(lambda: list(tmp_path.glob(SNAPSHOT)) and snapshot_is_whole(tmp_path))
        _, errors = program.communicate("\n", timeout=60)
    assert "recorded" in errors
    assert (project.root / "train.py").read_text() == "changed"
    assert recorded_files(client, client.jobs.get(job_of(project)), tmp_path) == {"train.py": script}


def snapshot_is_whole(folder):
    """Tell whether the small archive is closed: two blocks of zeros end it."""
    (archive,) = folder.glob(SNAPSHOT)
    return archive.read_bytes().endswith(bytes(2 * tarfile.BLOCKSIZE))


def running(project, variables, *arguments):
    return subprocess.Popen(
        [sys.executable, "train.py", *arguments],
        cwd=project.root,
        env=program_environment(**variables),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(
    ("ending", "status", "said"),
    [
        ("raise ValueError('no data')", 1, "though the program failed (ValueError)"),
        ("sys.exit(3)", 3, "recorded"),
        ("__import__('os')._exit(4)", 4, "though the program failed (it was killed)"),
    ],
)
def test_a_run_that_fails_is_recorded(client, project, variables, ending, status, said):
    project.commit({"train.py": f"{SCRIPT}\n{ending}\n"})
    done = project.python("train.py", **variables)
    assert done.returncode == status
    assert done.stdout == "0.1 []\n"
    line = [line for line in done.stderr.splitlines() if line.startswith("towline:")]
    assert len(line) == 1
    assert said in line[0]
    assert client.jobs.get(job_of(project)).spec.entrypoint


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_a_run_that_is_killed_is_recorded(client, project, variables, number):
    project.commit({"train.py": f"{SCRIPT}\nprint('ready', flush=True)\ninput()\n"})
    with running(project, variables) as program:
        eventually(lambda: "ready" in program.stdout.readline())
        program.send_signal(number)
        _, errors = program.communicate(timeout=60)
    assert "towline: recorded" in errors
    assert client.jobs.get(job_of(project)).spec.entrypoint


WITH_BLOCK = """
import towline
with towline.init({"lr": 1}) as run:
    print(run.recorded)
print("after", run.outputs)
"""


def test_a_with_block_records_at_its_end(client, project, variables):
    project.commit({"train.py": WITH_BLOCK})
    done = project.python("-u", "train.py", **variables)
    assert done.stdout.startswith("True\nafter ")
    assert done.stderr.count("towline: recorded") == 1
    assert list(client.jobs.get(job_of(project)).spec.entrypoint) == ["python", "-u", "train.py"]


def test_a_module_is_recorded_as_one(client, project, variables):
    project.commit({"pkg/__init__.py": "", "pkg/fit.py": SCRIPT})
    done = project.python("-m", "pkg.fit", "x", **variables)
    assert "recorded pkg.fit:v" in done.stderr
    version = next(client.jobs.versions("pkg.fit"))
    assert list(version.spec.entrypoint) == ["python", "-m", "pkg.fit", "x"]


def test_a_script_below_the_root_keeps_its_working_directory(client, project, variables):
    project.commit({"scripts/train.py": SCRIPT, "lib.py": ""})
    done = project.python("train.py", cwd=project.root / "scripts", **variables)
    assert "recorded scripts-train:v" in done.stderr
    spec = next(client.jobs.versions("scripts-train")).spec
    assert (list(spec.entrypoint), spec.working_dir) == (["python", "train.py"], "scripts")


WORKERS = """
import multiprocessing, os, subprocess, sys
import towline
run = towline.init({"lr": 1})
def work(_):
    return towline.init().recorded and os.getpid()
if __name__ == "__main__":
    for method in ("fork", "spawn"):
        with multiprocessing.get_context(method).Pool(2) as pool:
            pool.map(work, range(2))
    child = os.fork()
    if child == 0:
        sys.exit(0)
    os.waitpid(child, 0)
    subprocess.run([sys.executable, "other.py", str(run.outputs)])
"""


def test_processes_below_a_recorded_one_are_not_recorded(client, project, variables):
    other = "import sys, towline; r = towline.init(); print(r.recorded, str(r.outputs) == sys.argv[1])"
    project.commit({"train.py": WORKERS, "other.py": other})
    done = project.python("train.py", **variables)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "False True"
    assert done.stderr.count("towline:") == 1
    assert len(list(client.jobs.versions(job_of(project)))) == 1


def test_parameters_json_cannot_hold_are_named_and_the_rest_is_recorded(client, project, variables):
    project.commit(
        {"train.py": "import towline; print(towline.init({'lr': 1, 'm': {'act': len}}).config.m.act)"}
    )
    done = project.python("train.py", **variables)
    assert done.stdout == "<built-in function len>\n"
    first, second = done.stderr.splitlines()
    assert first == "towline: JSON cannot hold these parameters, so they are not recorded: m.act"
    assert "recorded" in second
    assert json.loads(client.jobs.get(job_of(project)).spec.config_json) == {"lr": 1, "m": {}}


def test_secrets_and_outputs_stay_on_the_machine(client, project, variables, tmp_path):
    project.commit({"train.py": SCRIPT, ".env": "TOKEN=1"})
    done = project.python("train.py", TOWLINE_OUTPUTS_DIR="results", **variables)
    assert ".env" in done.stderr.splitlines()[0]
    assert recorded_files(client, client.jobs.get(job_of(project)), tmp_path).keys() == {"train.py"}
    assert list((project.root / "results").rglob("metrics.json"))


def test_a_script_that_is_left_out_is_not_recorded_and_still_runs(project, variables):
    project.commit({".gitignore": "train.py\n", "lib.py": ""})
    project.write({"train.py": SCRIPT})
    done = project.python("train.py", **variables)
    assert (done.returncode, done.stdout) == (0, "0.1 []\n")
    assert "towline: not recorded: command: the script train.py is left out of the snapshot" in done.stderr


def test_a_wrong_name_is_told_in_one_line(project, variables):
    project.commit({"train.py": "import towline; towline.init(job='a b')"})
    done = project.python("train.py", **variables)
    assert done.returncode == 0
    (line,) = done.stderr.splitlines()
    assert line.startswith("towline: not recorded: job: 'jobs/a b' is not the name of a job")


def test_a_recorder_that_is_killed_is_told_in_one_line(project, variables, tmp_path):
    kill = "import os, signal\nos.kill(run._recording._recorder.pid, signal.SIGKILL)\n"
    project.commit({"train.py": SCRIPT + kill})
    done = project.python("train.py", **variables)
    assert (done.returncode, done.stdout) == (0, "0.1 []\n")
    (line,) = done.stderr.splitlines()
    assert line.startswith("towline: not recorded: ")
    assert list(tmp_path.glob("towline-recording-*")) == []


def test_starting_a_run_takes_no_time(project, variables):
    measure = (
        "import time, towline\nbegun = time.perf_counter()\nrun = towline.init({'lr': 1})\n"
        "print(time.perf_counter() - begun)\n"
    )
    files = {f"pkg{number % 100}/m{number}.py": f"x = {number}" for number in range(1000)}
    project.commit(files | {"train.py": measure})
    begun = time.monotonic()
    done = project.python("train.py", **variables)
    assert "recorded" in done.stderr
    assert time.monotonic() - begun < 20
    # Generous for a machine that is busy; alone it takes under 10 ms.
    assert float(done.stdout) < 0.25


def test_a_config_that_holds_itself_is_recorded_without_the_loop(client, project, variables):
    script = "import towline\nc = {'lr': 0.1}\nc['me'] = c\nprint(towline.init(c).config.me.lr)\n"
    project.commit({"train.py": script})
    done = project.python("train.py", **variables)
    assert (done.returncode, done.stdout) == (0, "0.1\n")
    assert "JSON cannot hold these parameters, so they are not recorded: me\n" in done.stderr
    assert json.loads(client.jobs.get(job_of(project)).spec.config_json) == {"lr": 0.1}


def test_a_script_that_was_deleted_is_told_and_a_system_folder_stays_here(project, variables, tmp_path):
    project.commit({"train.py": "import pathlib, towline; pathlib.Path(__file__).unlink(); towline.init()"})
    done = project.python("train.py", **variables)
    assert "the script train.py is left out of the snapshot; it is not there any more" in done.stderr
    (tmp_path / "home").mkdir()
    (tmp_path / "home/train.py").write_text(SCRIPT)
    done = project.python(str(tmp_path / "home/train.py"), HOME=str(tmp_path / "home"), **variables)
    assert done.returncode == 0
    assert f"not recorded: command: the source tree would be the whole of {tmp_path}/home" in done.stderr
