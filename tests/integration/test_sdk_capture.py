"""Captured commands, with real interpreters."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from towline.capture import capture_command
from towline.capture.entrypoint import Program
from towline.capture.environment import describe_own
from towline.capture.record import capture_program
from towline.capture.roots import root_of_command, root_of_running
from towline.errors import InvalidArgument
from towline_testing.checkouts import SourceTree, git_checkout


@pytest.fixture
def checkout(tmp_path: Path) -> SourceTree:
    tree = git_checkout(tmp_path / "digits")
    tree.commit({"train.py": "x", "scripts/eval.py": "y", ".gitignore": "scratch.py\n"})
    return tree


def test_a_command_becomes_a_job_without_running(checkout):
    with capture_command([sys.executable, "train.py", "--lr", "0.1"], checkout.root) as captured:
        spec = captured.spec("sha256:" + "0" * 64)
        assert captured.archive.stat().st_size == spec.code.size_bytes
    assert not captured.archive.exists()
    assert captured.job == "digits-train"
    assert list(spec.entrypoint) == ["python", "train.py", "--lr", "0.1"]
    assert spec.working_dir == ""
    assert spec.python.version == ".".join(map(str, sys.version_info[:3]))
    assert any(requirement.startswith("pytest==") for requirement in spec.python.requirements)
    assert spec.config_json == "{}"
    assert spec.provenance.git_branch == "main"
    assert spec.provenance.platform.startswith("Linux-")


def test_a_script_below_the_root_keeps_its_working_directory(checkout):
    with capture_command([sys.executable, "eval.py"], checkout.root / "scripts") as captured:
        assert captured.entrypoint.command == ("python", "eval.py")
        assert captured.entrypoint.working_dir == "scripts"
        assert captured.snapshot.paths == {".gitignore", "scripts/eval.py", "train.py"}
        assert captured.job == "eval"


def test_the_interpreter_that_is_named_is_asked(checkout, tmp_path):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    site = next((tmp_path / "venv/lib").glob("python*/site-packages"))
    for name, version in {"Some.Package": "2.5", "other": "1.0+local"}.items():
        info = site / f"{name}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    checkout.write({"json.py": "raise SystemExit('the working directory shadows the standard library')"})
    local = {"url": (tmp_path / "lib").as_uri(), "dir_info": {"editable": True}}
    (site / "other-1.0+local.dist-info/direct_url.json").write_text(json.dumps(local))
    with capture_command([str(tmp_path / "venv/bin/python"), "-m", "train"], checkout.root) as captured:
        assert captured.environment.requirements == ("some-package==2.5",)
        assert captured.entrypoint.command == ("python", "-m", "train")
        (warning,) = captured.warnings
    assert warning.startswith(
        f"other is installed in editable mode from {tmp_path / 'lib'}, where no project"
    )


def test_without_git_the_source_is_the_current_folder(tmp_path):
    tree = SourceTree(tmp_path)
    tree.write({"project/src/train.py": "x", "project/lib.py": "y", "elsewhere/z.py": "z"})
    with capture_command([sys.executable, "src/train.py"], tmp_path / "project") as captured:
        assert captured.snapshot.paths == {"src/train.py", "lib.py"}
        assert captured.entrypoint.command == ("python", "src/train.py")


def test_a_script_elsewhere_in_the_checkout_is_in_its_source(checkout):
    with capture_command([sys.executable, "../train.py"], checkout.root / "scripts") as captured:
        assert captured.entrypoint.command == ("python", "../train.py")
        assert captured.entrypoint.working_dir == "scripts"


@pytest.mark.parametrize("with_git", [False, True])
def test_a_script_outside_of_what_people_stand_in_is_refused(checkout, tmp_path, with_git):
    here = tmp_path / "here"
    here.mkdir()
    if with_git:
        git_checkout(here)
    for script in ("/etc/passwd", str(checkout.root / "train.py"), "../digits/train.py"):
        with pytest.raises(InvalidArgument, match=rf"{Path(script).name} lies outside of .* {here}; change"):
            capture_command([sys.executable, script], here)


def test_a_folder_that_is_linked_in_is_outside(checkout, tmp_path):
    here = tmp_path / "here"
    here.mkdir()
    (here / "linked").symlink_to(checkout.root)
    with pytest.raises(InvalidArgument, match=rf"\(which is {checkout.root}/train.py\) lies outside"):
        capture_command([sys.executable, "linked/train.py"], here)


def test_a_running_script_counts_with_its_own_checkout_else_its_folder(checkout, tmp_path):
    other = git_checkout(tmp_path / "other").root
    plain = SourceTree(tmp_path / "plain")
    plain.write({"train.py": "x"})
    script = checkout.root / "scripts/eval.py"
    assert root_of_running(Program(other, script=script)) == (checkout.root, True)
    assert root_of_running(Program(checkout.root / "scripts", script=script)) == (checkout.root, True)
    assert root_of_running(Program(other, script=plain.root / "train.py")) == (plain.root, False)
    assert root_of_running(Program(other, module="pkg.fit")) == (other, True)


@pytest.mark.parametrize("folder", ["/", "/etc", "/etc/ssl", "/usr", "/var", "/opt", "/tmp", "~"])
def test_whole_folders_of_the_system_or_of_a_person_are_no_source(tmp_path, monkeypatch, folder):
    monkeypatch.setenv("HOME", str(tmp_path))
    place = Path(folder).expanduser()
    with pytest.raises(InvalidArgument, match=f"the whole of {place}; put the program into a folder"):
        root_of_running(Program(tmp_path / "elsewhere", script=place / "train.py"))
    with pytest.raises(InvalidArgument, match=f"the whole of {place}; put the program into a folder"):
        root_of_command(Program(place, module="train"))


def test_a_home_that_is_a_checkout_is_no_source_either(checkout, monkeypatch):
    monkeypatch.setenv("HOME", str(checkout.root))
    with pytest.raises(InvalidArgument, match="would be the whole of"):
        capture_command([sys.executable, "train.py"], checkout.root)


def test_a_data_folder_of_towline_is_no_source(tmp_path):
    (tmp_path / "postgres").mkdir()
    SourceTree(tmp_path).write({"state.json": "{}", "train.py": "x"})
    with pytest.raises(InvalidArgument, match="is a data folder of Towline"):
        capture_command([sys.executable, "train.py"], tmp_path)


def test_a_script_that_is_left_out_is_told_the_true_reason(checkout, tmp_path):
    SourceTree(tmp_path).write({"outside.py": "x"})
    (checkout.root / "linked.py").symlink_to(tmp_path / "outside.py")
    checkout.write({"ours.py": "x", ".aws/rotate.py": "y", "scratch.py": "z", "data/state.json": "{}"})
    checkout.write({"data/postgres/PG_VERSION": "18", "data/run.py": "x"})
    for script, reason in {
        "linked.py": "it is a link that leads out of the source tree; copy the file there",
        ".aws/rotate.py": "it looks like a secret; keep it with a line !NAME in .towlineignore",
        "scratch.py": ".gitignore or .towlineignore names it, or its folder is no source",
        "data/run.py": ".gitignore or .towlineignore names it, or its folder is no source",
    }.items():
        with pytest.raises(InvalidArgument) as caught:
            capture_command([sys.executable, script], checkout.root)
        assert caught.value.message == f"command: the script {script} is left out of the snapshot; {reason}"
    gone = Program(checkout.root, script=checkout.root / "gone.py")
    with pytest.raises(
        InvalidArgument, match=r"gone.py is left out of the snapshot; it is not there any more"
    ):
        capture_program(gone, root_of_running(gone), lambda: describe_own([]), config_json="{}")


@pytest.mark.parametrize(
    ("argv", "problem"),
    [
        (["python", "nowhere.py"], "the script nowhere.py does not exist"),
        (["python", "scratch.py"], "scratch.py is left out of the snapshot"),
        (["no-such-python3", "train.py"], "no Python interpreter"),
        (["./python", "train.py"], "does not run as Python"),
        (["python9.9", "train.py"], "python9.9 is not on the PATH"),
        (["/bin/sh", "train.sh"], "'/bin/sh' is no Python interpreter, and no Python program"),
    ],
)
def test_what_cannot_be_captured_is_refused_and_leaves_nothing(
    checkout, argv, problem, tmp_path, monkeypatch
):
    checkout.write({"scratch.py": "z"})
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    with pytest.raises(InvalidArgument, match=problem) as caught:
        capture_command([sys.executable if argv[0] == "python" else argv[0], *argv[1:]], checkout.root)
    assert caught.value.metadata == {"field": "command"}
    assert list(temporary.iterdir()) == []
