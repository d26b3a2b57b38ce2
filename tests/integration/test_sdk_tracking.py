"""Programs that are recorded as they are: `towline track`, launchers, notebooks, config libraries."""

import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from towline_testing.checkouts import git_checkout, program_environment
from towline_testing.waiting import eventually

PYTHON = sys.executable
TRACK = (PYTHON, "-m", "towline.cli", "track")
REPLAY = ["python", "-m", "towline.runtime.replay", "--"]
SCRIPT = """
import argparse, os, sys
parser = argparse.ArgumentParser()
parser.add_argument("--lr", type=float)
parser.add_argument("--epochs", type=int, default=3)
parser.add_argument("--fail", type=int, default=0)
arguments = parser.parse_args()
print("lr", arguments.lr, sys.stdin.read())
print("to stderr", file=sys.stderr)
sys.exit(arguments.fail)
"""


@pytest.fixture
def variables(endpoints, tmp_path):
    (tmp_path / "tmp").mkdir()
    return program_environment(
        TOWLINE_REGISTRY_ADDRESS=endpoints.registry,
        TOWLINE_QUEUE_ADDRESS=endpoints.queue,
        TMPDIR=str(tmp_path / "tmp"),
    )


@pytest.fixture
def project(tmp_path):
    return git_checkout(tmp_path / f"project-{os.urandom(3).hex()}")


@pytest.fixture
def track(project, variables):
    def track(*words, stdin="", **more):
        return subprocess.run(
            [*TRACK, *words],
            cwd=project.root,
            env=variables | more,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return track


def test_a_program_runs_as_it_is_and_its_arguments_become_parameters(client, project, track, tmp_path):
    project.commit({"train.py": SCRIPT})
    done = track("--", PYTHON, "train.py", "--lr", "1e-3", "--epochs=4", "--fail", "3", stdin="from stdin")
    assert (done.returncode, done.stdout) == (3, "lr 0.001 from stdin\n")
    job = f"{project.root.name}-train"
    assert done.stderr.splitlines() == [
        "to stderr",
        f"towline: recorded {job}:v0, though the program failed (exit code 3) "
        f"(submit it: towline submit {job})",
    ]
    spec = client.jobs.get(job).spec
    words = ["python", "train.py", "--lr", "${config.lr=1e-3}", "--epochs=${config.epochs=4}"]
    assert list(spec.entrypoint) == [*REPLAY, *words, "--fail", "${config.fail=3}"]
    assert json.loads(spec.config_json) == {"lr": 0.001, "epochs": 4, "fail": 3}
    # Whether a 4 may be a 4.5 only the program knows; that there is no other parameter is known.
    schema = json.loads(spec.input_schema_json)
    assert schema["properties"] == {name: {"type": "number"} for name in ("lr", "epochs", "fail")}
    assert schema["additionalProperties"] is False
    assert not list((tmp_path / "tmp").iterdir())


def test_a_name_and_a_config_file_can_be_given(client, project, track):
    project.commit({"train.py": "print('ran')", "conf/model.json": '{"width": 8}', "m.yml": "a: {b: 1}"})
    name = f"named-{project.root.name}"
    done = track("--name", name, "--config=conf/model.json", "--config-file", "m2=m.yml", PYTHON, "train.py")
    assert (done.returncode, done.stdout) == (0, "ran\n")
    spec = client.jobs.get(name).spec
    assert list(spec.entrypoint) == ["python", "train.py"]
    assert json.loads(spec.config_json) == {"model": {"width": 8}, "m2": {"a": {"b": 1}}}
    assert {each.key: each.path for each in spec.config_files} == {"model": "conf/model.json", "m2": "m.yml"}


def test_a_tracked_program_that_knows_towline_is_recorded_once_with_both(client, project, track):
    script = """
import sys, towline
run = towline.init({"epochs": 3}, job="ignored")
run.summary["accuracy"] = 0.5
run.log_artifact(__file__, name="script-" + sys.argv[2])
print(run.recorded)
"""
    project.commit({"train.py": script})
    name = f"both-{project.root.name}"
    done = track("--name", name, "--", PYTHON, "train.py", "--tag", name)
    assert done.stdout == "False\n"
    assert f"recorded {name}:v0 (submit it: towline submit {name}); logged script-{name}:v0" in done.stderr
    version = client.jobs.get(name)
    assert json.loads(version.spec.config_json) == {"epochs": 3, "tag": name}
    types = {"epochs": {"type": "integer"}, "tag": {"type": "string"}}
    assert json.loads(version.spec.input_schema_json)["properties"] == types
    assert "accuracy" in version.spec.provenance.result_schema_json


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["sh", "-c", "echo ran; exit 5"], 5, "not recorded: command: 'sh' is no Python interpreter"),
        (["no-such-command"], 127, "no-such-command: No such file or directory"),
        (["./data.txt"], 126, "./data.txt: Permission denied"),
    ],
)
def test_what_cannot_be_recorded_runs_all_the_same(project, track, words, status, said):
    project.commit({"data.txt": "x"})
    done = track("--", *words)
    assert done.returncode == status
    assert said in done.stderr


def test_nothing_to_run_and_wrong_options_are_told(track):
    assert track().returncode == 2
    assert track("--nothing", "--", "true").returncode == 2
    wrong = track("--config", "a.json", "--config", "a.json", "--", "true")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    unnamed = track("--name", "a b", "--", "echo", "ran")
    assert (unnamed.returncode, unnamed.stdout) == (2, "")
    assert "--name: 'jobs/a b' is not the name of a job" in unnamed.stderr
    assert "--config-file: 'a.json': write FILE or NAME=FILE, each name once" in wrong.stderr
    no_package = track("--system-package", "Not One", "--", "echo", "ran")
    assert (no_package.returncode, no_package.stdout) == (2, "")
    assert "--system-package: 'Not One' is no name of a Debian package" in no_package.stderr
    assert "COMMAND" in track("--help").stdout


@pytest.mark.parametrize("variable", ["TOWLINE_RECORD=0", "RANK=1"])
def test_where_nothing_is_to_be_recorded_the_program_just_runs(project, track, variable):
    project.commit({"train.py": "import os; print(os.getppid() == int(os.environ['SHELL_PID']))"})
    name, _, value = variable.partition("=")
    done = track("--", PYTHON, "train.py", SHELL_PID=str(os.getpid()), **{name: value})
    assert (done.stdout, done.stderr) == ("True\n", "")


WAITS = """
import signal, sys, time
if sys.argv[1:] == ["catch"]:
    signal.signal(signal.SIGTERM, lambda *_: (print("caught", flush=True), sys.exit(7)))
    signal.signal(signal.SIGUSR1, lambda *_: print("usr1", flush=True))
print("ready", flush=True)
while True: time.sleep(60)
"""


def test_signals_are_the_programs_and_so_is_the_way_it_ends(project, variables):
    project.commit({"wait.py": WAITS})

    def start(*words):
        program = subprocess.Popen(
            [*TRACK, "--", PYTHON, "wait.py", *words],
            cwd=project.root,
            env=variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert program.stdout.readline() == "ready\n"
        return program

    with start("catch") as catching:
        catching.send_signal(signal.SIGUSR1)
        assert catching.stdout.readline() == "usr1\n"
        catching.send_signal(signal.SIGTERM)
        out, errors = catching.communicate(timeout=60)
        assert (catching.returncode, out) == (7, "caught\n")
        assert "though the program failed (exit code 7)" in errors
    for number in (signal.SIGTERM, signal.SIGINT):
        with start() as ending:
            ending.send_signal(number)
            _, errors = ending.communicate(timeout=60)
            # Python turns SIGINT into KeyboardInterrupt, and ends by the signal after its traceback.
            assert ending.returncode == -number
            assert f"though the program failed ({number.name})" in errors


def test_ctrl_c_in_a_terminal_reaches_the_program_once(project, variables):
    script = """
import time
try:
    print("ready", flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    print("once", flush=True)
time.sleep(0.2)
print("end", flush=True)
"""
    project.commit({"wait.py": script})
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(project.root)
        os.execve(PYTHON, [*TRACK, "--", PYTHON, "wait.py"], variables)
    seen = b""
    while b"ready" not in seen:
        seen += os.read(terminal, 1024)
    os.write(terminal, b"\x03")
    while b"recorded" not in seen:
        seen += os.read(terminal, 1024)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    os.close(terminal)
    assert seen.count(b"once") == seen.count(b"end") == 1


def test_a_program_whose_tracker_is_killed_goes_on_and_is_recorded(client, project, variables, tmp_path):
    script = "print('ready', flush=True)\ninput()\nopen('done', 'w')\n"
    project.commit({"wait.py": script, ".gitignore": "done"})
    with subprocess.Popen(
        [*TRACK, "--name", project.root.name, "--", PYTHON, "wait.py"],
        cwd=project.root,
        env=variables,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as tracker:
        assert tracker.stdout.readline() == "ready\n"
        # Only then does the recorder know what to record.
        eventually(
            lambda: [path for path in (tmp_path / "tmp").glob("*/*") if path.name != "lock"], within=30
        )
        tracker.kill()
        tracker.wait()
        tracker.stdin.write("\n")
    eventually((project.root / "done").exists)
    eventually(lambda: not list((tmp_path / "tmp").iterdir()), within=30)
    assert list(client.jobs.get(project.root.name).spec.entrypoint) == ["python", "wait.py"]


LAUNCHER = """\
#!{python}
import os, subprocess, sys
ranks = [
    subprocess.Popen([sys.executable, "-u", *sys.argv[2:]], env=os.environ | {{"RANK": str(rank)}} | {{
        "TORCHELASTIC_RUN_ID": "none"}})
    for rank in range(2)
]
sys.exit(max(each.wait() for each in ranks))
"""
TRAINS = """
import argparse, os, towline
parser = argparse.ArgumentParser()
parser.add_argument("--lr", type=float)
run = towline.init(args=parser.parse_args(), config={"epochs": 3})
run.summary["rank"] = int(os.environ["RANK"])
"""


@pytest.fixture
def launcher(tmp_path):
    """A command that starts two ranks, as torchrun does, in a bin folder of an environment."""
    script = tmp_path / "venv/bin/torchrun"
    script.parent.mkdir(parents=True)
    (tmp_path / "venv/pyvenv.cfg").touch()
    (tmp_path / "venv/bin/python").symlink_to(PYTHON)
    script.write_text(LAUNCHER.format(python=PYTHON))
    script.chmod(0o755)
    return script


def test_ranks_of_a_launcher_are_one_recording_of_the_launcher(client, project, variables, track, launcher):
    project.commit({"train.py": TRAINS})
    job = f"{project.root.name}-train"
    path = {"PATH": f"{launcher.parent}:{os.environ['PATH']}"}
    own = subprocess.run(
        ["torchrun", "--nproc_per_node=2", "train.py", "--lr", "0.1"],
        cwd=project.root,
        env=variables | path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert own.stderr.count("towline: recorded") == own.stderr.count("towline:") == 1
    spec = client.jobs.get(job).spec
    assert list(spec.entrypoint) == ["torchrun", "--nproc_per_node=2", "train.py", "--lr", "0.1"]
    assert json.loads(spec.config_json) == {"lr": 0.1, "epochs": 3}
    done = track("--", "torchrun", "--nproc_per_node=2", "train.py", "--lr", "0.1", **path)
    assert done.returncode == 0, done.stderr
    assert f"recorded {job}:v1" in done.stderr
    assert done.stderr.count("towline:") == 1
    spec = client.jobs.get(job).spec
    words = ["torchrun", "--nproc_per_node=2", "train.py", "--lr", "${config.lr=0.1}"]
    assert list(spec.entrypoint) == [*REPLAY, *words]
    assert json.loads(spec.config_json) == {"lr": 0.1, "epochs": 3}


@pytest.fixture(scope="module")
def libraries(tmp_path_factory):
    """An environment with hydra, and papermill with a kernel to run notebooks."""
    folder = tmp_path_factory.mktemp("libraries") / "venv"
    uv = Path(PYTHON).with_name("uv")
    subprocess.run([uv, "venv", "--quiet", "--python", PYTHON, folder], check=True)
    packages = ["hydra-core==1.3.2", "papermill==2.6.0", "ipykernel", "grpcio-status", "pathspec"]
    command = [uv, "pip", "install", "--quiet", "--python", folder / "bin/python", *packages]
    subprocess.run(command, check=True)
    return folder / "bin"


HYDRA = """
import hydra, towline
@hydra.main(version_base=None, config_path="conf", config_name="config")
def main(config):
    run = towline.init(args=config)
    print(config.lr, config.model.width, config.model.double, list(config.layers))
main()
"""


def test_a_config_of_hydra_is_the_parameters_and_gets_those_of_the_run(
    client, project, variables, libraries, tmp_path
):
    conf = "lr: 0.1\nlayers: [1, 2]\nmodel:\n  width: 8\n  double: ${model.width}\n"
    project.commit({"train.py": HYDRA, "conf/config.yaml": conf, ".gitignore": "outputs/"})
    run = [libraries / "python", "train.py", "lr=0.2"]

    def ran(**more):
        environment = variables | more
        return subprocess.run(
            run, cwd=project.root, env=environment, capture_output=True, text=True, check=True
        )

    done = ran()
    assert done.stdout == "0.2 8 8 [1, 2]\n"
    assert "towline: recorded" in done.stderr
    version = client.jobs.get(f"{project.root.name}-train")
    recorded = {"lr": 0.2, "layers": [1, 2], "model": {"width": 8, "double": 8}}
    assert json.loads(version.spec.config_json) == recorded
    (tmp_path / "config.json").write_text(
        json.dumps(recorded | {"lr": 1, "model": {"width": 9, "double": 8}})
    )
    # What was interpolated follows, unless the submission sets it itself.
    assert ran(TOWLINE_CONFIG=str(tmp_path / "config.json")).stdout == "1.0 9 9 [1, 2]\n"


NOTEBOOK = {
    "cells": [
        {
            "cell_type": "code",
            "execution_count": None,
            "outputs": [],
            "metadata": {"tags": ["parameters"]},
            "source": "lr = 0.1",
        },
        {
            "cell_type": "code",
            "execution_count": None,
            "outputs": [],
            "metadata": {},
            "source": "import towline\nrun = towline.init()\nrun.summary['lr'] = lr\nprint(run.recorded)",
        },
    ],
    "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
    "nbformat": 4,
    "nbformat_minor": 5,
}


def test_a_notebook_is_recorded_with_the_parameters_of_papermill(client, project, track, libraries):
    project.commit({"study.ipynb": json.dumps(NOTEBOOK), ".gitignore": "out.ipynb"})
    path = {"PATH": f"{libraries}:{os.environ['PATH']}", "HOME": str(project.root.parent)}
    done = track("--", "papermill", "study.ipynb", "out.ipynb", "-p", "lr", "0.5", **path)
    assert done.returncode == 0, done.stderr
    version = client.jobs.get("study")
    words = ["papermill", "study.ipynb", "out.ipynb", "-p", "lr", "${config.lr=0.5}"]
    assert list(version.spec.entrypoint) == [*REPLAY, *words]
    assert json.loads(version.spec.config_json) == {"lr": 0.5}
    assert json.loads(version.spec.provenance.result_schema_json)["properties"] == {"lr": {"type": "number"}}
    assert any(line.startswith("papermill==2.6.0") for line in version.spec.python.requirements)
