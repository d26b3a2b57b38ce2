"""Captured commands, with real interpreters."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from towline.capture import capture_command
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
    assert "this machine's disk" in warning
    assert warning.endswith(": other")


def test_without_git_the_source_is_the_folder_of_the_script(tmp_path):
    tree = SourceTree(tmp_path)
    tree.write({"project/train.py": "x", "project/lib.py": "y", "elsewhere/z.py": "z"})
    with capture_command([sys.executable, "project/train.py"], tmp_path) as captured:
        assert captured.snapshot.paths == {"train.py", "lib.py"}
        assert captured.entrypoint.command == ("python", "train.py")
        assert captured.entrypoint.working_dir == ""


def test_the_checkout_of_the_script_counts_where_the_working_directory_is_in_another(checkout, tmp_path):
    other = git_checkout(tmp_path / "other")
    with capture_command([sys.executable, str(checkout.root / "train.py")], other.root) as captured:
        assert captured.snapshot.root == checkout.root.resolve()
        assert captured.entrypoint.command == ("python", "train.py")


@pytest.mark.parametrize(
    ("argv", "problem"),
    [
        (["python", "nowhere.py"], "the script nowhere.py does not exist"),
        (["python", "scratch.py"], "scratch.py is left out of the snapshot"),
        (["no-such-python3", "train.py"], "no Python interpreter"),
        (["./python", "train.py"], "does not run as Python"),
        (["python9.9", "train.py"], "python9.9 is not on the PATH"),
        ([sys.executable, str(Path(sys.executable).with_name("pytest"))], "installed command"),
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
