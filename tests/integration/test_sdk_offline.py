"""Recordings without a registry, and those that are broken off: kept on this machine, and sent later."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from towline.cli import tracking
from towline_testing.checkouts import git_checkout, program_environment
from towline_testing.command import towline
from towline_testing.waiting import eventually

SCRIPT = """
import sys, towline
run = towline.init({"lr": 0.1, "job": sys.argv[1]}, job=sys.argv[1])
run.summary["accuracy"] = 0.5
open("model.bin", "w").write("w")
run.log_artifact("model.bin", name="model-" + sys.argv[1], type="model")
print("ran")
"""
AWAY = {"TOWLINE_REGISTRY_ADDRESS": "127.0.0.1:1", "TOWLINE_QUEUE_ADDRESS": "127.0.0.1:1"}


@pytest.fixture
def variables(tmp_path):
    (tmp_path / "tmp").mkdir()
    return {"TOWLINE_OFFLINE_DIR": str(tmp_path / "offline"), "TMPDIR": str(tmp_path / "tmp")}


@pytest.fixture
def sync(endpoints, variables):
    """Run `towline sync` with the registry in reach."""
    reach = {"TOWLINE_REGISTRY_ADDRESS": endpoints.registry, "TOWLINE_QUEUE_ADDRESS": endpoints.queue}

    def sync(*options, **more):
        return towline("sync", *options, env=program_environment(**variables, **(reach | more)))

    return sync


@pytest.fixture
def project(tmp_path):
    tree = git_checkout(tmp_path / f"project-{os.urandom(3).hex()}")
    tree.commit({"train.py": SCRIPT, ".gitignore": "*.bin"})
    return tree


def records(tmp_path):
    return sorted((tmp_path / "offline").glob("*/record.json"))


def test_a_record_survives_its_checkout_and_is_sent_later(client, project, variables, sync, tmp_path):
    job = project.root.name
    done = project.python("train.py", job, **variables, **AWAY)
    assert (done.returncode, done.stdout) == (0, "ran\n")
    (line,) = done.stderr.splitlines()
    assert line.startswith("towline: recorded offline: the registry at 127.0.0.1:1 cannot be reached")
    assert line.endswith("`towline sync` sends it (1 waiting)")
    assert not list((tmp_path / "tmp").iterdir())
    shutil.rmtree(project.root)

    listed = sync("--list").stdout
    assert job in listed and "python train.py" in listed
    assert json.loads(sync("--list", "--json").stdout)[0]["job"] == job
    away = sync(**AWAY)
    assert away.returncode == 3
    assert "cannot be reached" in away.stderr
    assert len(records(tmp_path)) == 1

    sent = sync()
    assert (sent.returncode, sent.stdout) == (0, f"recorded {job}:v0; logged model-{job}:v0\n")
    assert not list((tmp_path / "offline").iterdir())
    version = client.jobs.get(job)
    assert json.loads(version.spec.config_json) == {"lr": 0.1, "job": job}
    assert "accuracy" in version.spec.provenance.result_schema_json
    client.blobs.download(version.spec.code.digest, tmp_path / "source.tar")
    assert client.artifacts.get(f"model-{job}").producer_job_version == version.name
    assert sync().stdout == "nothing waits\n"


def test_a_record_that_was_sent_half_is_sent_once(client, project, variables, sync, tmp_path):
    job = project.root.name
    project.python("train.py", job, **variables, **AWAY)
    (record,) = records(tmp_path)
    shutil.copytree(record.parent, tmp_path / "again")
    assert f"recorded {job}:v0" in sync().stdout
    shutil.move(tmp_path / "again", record.parent)
    assert sync().stdout == f"unchanged {job}:v0; logged model-{job}:v0\n"
    assert len(list(client.jobs.versions(job))) == len(list(client.artifacts.versions(f"model-{job}"))) == 1


def test_bad_records_stay_and_the_others_go_on(client, project, variables, sync, tmp_path):
    job = project.root.name
    for name in ("a", "b", "c", "d", "e"):
        project.python("train.py", f"{job}-{name}", **variables, **AWAY)
    broken, refused, lacking, partly, good = records(tmp_path)
    broken.write_text("{")
    content = json.loads(refused.read_text())
    refused.write_text(json.dumps(content | {"job": "not a name"}))
    next(lacking.parent.glob("*.tar")).unlink()
    partly.write_text(partly.read_text().replace('"type": "model"', '"type": "No Type"'))
    # Kept in the order in which they were recorded.
    for age, record in enumerate((good, partly, lacking, refused, broken)):
        os.utime(record, (time.time() - age, time.time() - age))
    sent = sync()
    assert sent.returncode == 4
    assert sent.stdout == f"recorded {job}-e:v0; logged model-{job}-e:v0\n"
    problems = sent.stderr.splitlines()
    bad = (broken, refused, lacking, partly)
    assert [line.partition(": ")[0] for line in problems] == [str(each.parent) for each in bad]
    assert "cannot be read (JSONDecodeError" in problems[0]
    assert "not the name of a job" in problems[1]
    assert "a file of the record cannot be read" in problems[2]
    assert f"the artifact model-{job}-d is not kept: " in problems[3]
    assert records(tmp_path) == sorted([broken, refused, lacking, partly])
    assert "cannot be read" in sync("--list").stdout


def test_a_record_that_another_sync_works_on_is_left_to_it(project, variables, sync, tmp_path):
    project.python("train.py", project.root.name, **variables, **AWAY)
    (record,) = records(tmp_path)
    with subprocess.Popen(["flock", record.parent / "lock", "sleep", "60"], start_new_session=True) as other:
        try:
            eventually(
                lambda: (
                    subprocess.run(["flock", "-n", record.parent / "lock", "true"], check=False).returncode
                )
            )
            done = sync()
        finally:
            os.killpg(other.pid, signal.SIGKILL)
    assert (done.returncode, done.stdout) == (0, "")
    assert records(tmp_path) == [record]


def test_a_record_that_another_sync_has_just_sent_is_no_problem(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("TOWLINE_OFFLINE_DIR", str(tmp_path / "offline"))
    half = tmp_path / "half"
    half.mkdir()
    monkeypatch.setattr("towline.capture.records.kept", lambda: [tmp_path / "gone", half])
    assert tracking.sync() == 0
    assert capsys.readouterr() == ("", "")


def test_where_no_record_can_be_kept_it_stays_in_the_temporary_folder(project, variables, sync, tmp_path):
    job = project.root.name
    done = project.python("train.py", job, **(variables | {"TOWLINE_OFFLINE_DIR": "/dev/null/x"}), **AWAY)
    assert (done.returncode, done.stdout) == (0, "ran\n")
    (folder,) = (tmp_path / "tmp").iterdir()
    assert f"`towline sync` sends it from {folder}, as /dev/null/x takes nothing" in done.stderr
    assert f"recorded {job}:v0" in sync().stdout
    assert not list((tmp_path / "tmp").iterdir())


def recorder_of(tmp_path, within=10.0):
    """Wait for a snapshot and give the recorder that has taken it."""
    (spool,) = eventually(lambda: list((tmp_path / "tmp").glob("towline-recording-*")), within=within)
    eventually(lambda: list(spool.glob("towline-source-*.tar")), within=within)
    inode = (spool / "lock").stat().st_ino
    pids = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal()]
    # A child that it has just forked looks like it.
    return spool, min(pid for pid in pids if is_recorder(pid) and holds(pid, inode))


def is_recorder(pid):
    try:
        return b"towline.capture.recorder" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def holds(pid, inode):
    try:
        return any(fd.stat().st_ino == inode for fd in Path(f"/proc/{pid}/fd").iterdir() if fd.exists())
    except OSError:  # it has ended meanwhile
        return False


def test_what_a_killed_recorder_leaves_is_swept_by_the_next_one(client, project, variables, sync, tmp_path):
    waits = SCRIPT + "import time\nprint('ready', flush=True)\ninput()\n"
    project.write({"wait.py": waits})
    with subprocess.Popen(
        [sys.executable, "wait.py", project.root.name],
        cwd=project.root,
        env=program_environment(**variables, **AWAY),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as program:
        spool, recorder = recorder_of(tmp_path)
        os.kill(recorder, signal.SIGKILL)
        # The program is alive and has the folder: nobody sweeps it.
        old = time.time() - 3600
        os.utime(spool, (old, old))
        assert sync().stdout == "nothing waits\n"
        assert spool.exists()
        program.kill()
    os.utime(spool, (old, old))
    assert sync().stdout == "nothing waits\n"
    assert not spool.exists()


@pytest.fixture
def silent():
    """A registry that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        yield {"TOWLINE_REGISTRY_ADDRESS": f"127.0.0.1:{port}", "TOWLINE_QUEUE_ADDRESS": "127.0.0.1:1"}


@pytest.fixture
def uploading(project, variables, silent, tmp_path):
    """A program that has ended, and waits for its recorder, which uploads to nobody."""
    with (
        (tmp_path / "stderr").open("w") as errors,
        subprocess.Popen(
            [sys.executable, "train.py", project.root.name],
            cwd=project.root,
            env=program_environment(**variables, **silent),
            stdout=subprocess.DEVNULL,
            stderr=errors,
        ) as program,
    ):
        spool, recorder = recorder_of(tmp_path)
        eventually((spool / "record.json").exists)
        yield program, recorder
        program.kill()


def test_a_recorder_that_is_killed_while_it_uploads_leaves_a_record(project, uploading, sync, tmp_path):
    program, recorder = uploading
    os.kill(recorder, signal.SIGKILL)
    assert program.wait(60) == 0
    told = (tmp_path / "stderr").read_text().splitlines()
    assert told == ["towline: recorded offline: the recorder was killed by signal 9. `towline sync` sends it"]
    assert f"recorded {project.root.name}:v0" in sync().stdout


def test_a_person_who_does_not_want_to_wait_need_not(project, uploading, sync, tmp_path):
    program, recorder = uploading
    program.send_signal(signal.SIGINT)
    assert program.wait(60) == 0
    assert (tmp_path / "stderr").read_text() == "towline: the recording goes on in the background\n"
    assert sync().stdout == ""
    os.kill(recorder, signal.SIGKILL)
    assert f"recorded {project.root.name}:v0" in eventually(lambda: sync().stdout, within=30)


def test_a_finished_record_of_a_killed_recorder_is_sent_by_sync(client, project, variables, sync, tmp_path):
    job = project.root.name
    kept = {"TOWLINE_OFFLINE_DIR": "/dev/null/x"}
    project.python("train.py", job, **(variables | kept), **AWAY)
    (spool,) = (tmp_path / "tmp").iterdir()
    old = time.time() - 3600
    os.utime(spool, (old, old))
    done = project.python("train.py", f"{job}-next", **variables, **AWAY)
    assert "found 1 finished records whose recorders were killed; `towline sync` sends them" in done.stderr
    assert len(records(tmp_path)) == 2
    assert f"recorded {job}:v0" in sync().stdout


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("import os; os._exit(5)", 5),
        ("raise ValueError('x')", 1),
        ("raise KeyboardInterrupt", -2),
        ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", -15),
        ("import os; os.fork() or os._exit(0)", 0),
        ("import os, sys; os.execv(sys.executable, [sys.executable, '-c', 'print(1)'])", 0),
        ("import subprocess, sys; subprocess.run([sys.executable, '-c', 'print(1)'])", 0),
        ("import sys; sys.stderr.close(); sys.stdout.close()", 0),
        ("import os, shutil; shutil.rmtree(os.environ['TOWLINE_SPOOL']); run.summary['b'] = 1", 0),
        ("import resource; resource.setrlimit(resource.RLIMIT_NPROC, (1, 1)); run.summary['b'] = 1", 0),
    ],
)
def test_however_a_program_ends_recording_never_changes_it(project, variables, tmp_path, code, status):
    project.write({"ends.py": SCRIPT + code})
    done = project.python("ends.py", project.root.name, **variables, **AWAY)
    assert done.returncode == status, done.stderr
    assert done.stdout.startswith("ran\n")
    assert "Traceback" not in done.stderr or status in (1, -2)
    if "rmtree" not in code:
        eventually(lambda: records(tmp_path), within=30)


def test_a_disk_that_fills_while_the_snapshot_is_taken_is_one_line(project, variables, tmp_path):
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (2048, 2048))\n"
    project.write({"full.py": limit + SCRIPT})
    done = project.python("full.py", project.root.name, **variables, **AWAY)
    assert (done.returncode, done.stdout) == (0, "ran\n")
    assert [line.partition(": [")[0] for line in done.stderr.splitlines()] == [
        "towline: not recorded: OSError"
    ]
    assert not list((tmp_path / "tmp").iterdir())


@pytest.mark.parametrize("where", ["/dev/null", "/proc"])
def test_without_room_for_a_recording_the_program_just_runs(project, variables, where):
    code = (
        "import towline.runtime.spool\nfrom pathlib import Path\n"
        f"towline.runtime.spool.folders = lambda: iter([Path('{where}')])\n"
    )
    project.write({"full.py": code + SCRIPT})
    done = project.python("full.py", project.root.name, **variables, **AWAY)
    assert (done.returncode, done.stdout) == (0, "ran\n")
    (line,) = done.stderr.splitlines()
    assert line.startswith("towline: not recorded: ")
