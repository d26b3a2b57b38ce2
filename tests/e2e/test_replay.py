"""A recorded run is repeated when nothing is left of its checkout: the same tree, the same packages."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest

from towline.client import Client
from towline.v1 import runs_pb2
from towline_testing.checkouts import SourceTree
from towline_testing.command import towline
from towline_testing.jobs import submission
from towline_testing.stack import Stack

pytestmark = [pytest.mark.docker, pytest.mark.postgres, pytest.mark.timeout(300)]

ROOT: Final = Path(__file__).resolve().parents[2]
UV: Final = Path(sys.executable).with_name("uv")
COPIES: Final = ".towline/editables/outer/"

# Prints every file and link below its folder with its bytes' digest, and what is installed.
PROGRAM: Final = """
import hashlib, importlib.metadata, json, os, subprocess, sys
{init}
import demo_wheel, inner, outer
tree = {{}}
for folder, folders, files in os.walk("."):
    folders[:] = [name for name in folders if name != ".git"]
    for path in (os.path.relpath(os.path.join(folder, name)) for name in files + folders):
        if os.path.islink(path):
            tree[path] = "-> " + os.readlink(path)
        elif os.path.isfile(path):
            with open(path, "rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            tree[path] = ("x " if os.access(path, os.X_OK) else "- ") + sha256
freeze = subprocess.check_output([sys.executable, "-m", "pip", "freeze", "--all"], text=True).splitlines()
installed = sorted({{f"{{d.name}}=={{d.version}}" for d in importlib.metadata.distributions()}})
said = [demo_wheel.SAYS, inner.SAYS, outer.SAYS]
print("REPLAY", json.dumps({{"tree": tree, "freeze": freeze, "installed": installed, "said": said}}))
"""


def package(name: str, backend: str, version: str = "0.1") -> dict[str, str | bytes]:
    requires, module = {
        "setuptools": ("setuptools>=61", "setuptools.build_meta"),
        "hatchling": ("hatchling", "hatchling.build"),
    }[backend]
    pyproject = (
        f'[build-system]\nrequires = ["{requires}"]\nbuild-backend = "{module}"\n'
        f'[project]\nname = "{name}"\nversion = "{version}"\n'
    )
    return {"pyproject.toml": pyproject, f"src/{name}/__init__.py": f"SAYS = '{name} {version}'\n"}


class Project:
    """A checkout as a person has it, with its own environment; all of it is in one folder."""

    def __init__(self, folder: Path, init: str) -> None:
        self.folder = folder
        self.python = folder / "venv/bin/python"
        self.outer = SourceTree(folder / "outer")
        self.outer.write(package("outer", "hatchling") | {"data/table.bin": bytes(range(256))})
        subprocess.run(["git", "init", "--quiet", "--bare", folder / "origin"], check=True)
        self.checkout = SourceTree(folder / "checkout")
        self.checkout.root.mkdir()
        self._checkout(init)
        self._environment(with_towline=bool(init))

    def _checkout(self, init: str) -> None:
        here = self.checkout
        here.git("init", "--quiet", "--initial-branch=main")
        here.git("remote", "add", "origin", self.folder / "origin")
        inner = {f"libs/inner/{path}": text for path, text in package("inner", "setuptools").items()}
        ignored = {".gitignore": "*.log\n*.egg-info/\n"}
        here.commit(
            {"train.py": "pass\n", "staged.txt": "1\n", "unstaged.txt": "1\n", "gone.txt": "x"}
            | inner
            | ignored
        )
        here.git("push", "--quiet", "origin", "main")
        here.commit({"train.py": PROGRAM.format(init=init), "unpushed.bin": bytes(range(256)) * 64})
        here.write({"staged.txt": "2\n"})
        here.git("add", "staged.txt")
        here.write({"unstaged.txt": "2\n", "untracked/Größe.txt": "new\n", "scratch.log": "ignored"})
        here.write({"untracked/run.sh": "#!/bin/sh\n"})
        (here.root / "untracked/run.sh").chmod(0o755)
        (here.root / "untracked/link").symlink_to("../unpushed.bin")
        (here.root / "gone.txt").unlink()

    def _environment(self, *, with_towline: bool) -> None:
        wheel = SourceTree(self.folder / "wheel")
        wheel.write(package("demo_wheel", "hatchling", "2.5"))
        run(UV, "build", "--quiet", "--wheel", "--out-dir", self.folder / "dist", wheel.root)
        run(UV, "venv", "--quiet", "--seed", "--python", sys.executable, self.folder / "venv")
        install = (UV, "pip", "install", "--quiet", "--python", self.python)
        run(*install, "six==1.17.0", "-e", self.checkout.root / "libs/inner", "-e", self.outer.root)
        if with_towline:
            run(*install, "--constraint", ROOT / "requirements/dev.txt", ROOT)
        run(self.python, "-m", "pip", "install", "--quiet", *(self.folder / "dist").glob("*.whl"))


def run(*command: str | Path) -> None:
    subprocess.run(command, check=True)


def printed(output: str) -> dict[str, Any]:
    (line,) = (line for line in output.splitlines() if line.startswith("REPLAY "))
    found: dict[str, Any] = json.loads(line.removeprefix("REPLAY "))
    return found


def frozen(lines: list[str]) -> list[str]:
    """Take out of `pip freeze` where things lie, and nothing else.

    A file that was installed keeps its name and hash: "demo @ file:///demo-1.0-….whl#sha256=…". An editable
    package is "-e NAME": pip writes its folder, or the repository that it finds around that, with a comment.
    """
    names, commented = [], ""
    for line in lines:
        if line.startswith("# Editable"):
            commented = line.rpartition("(")[2].partition("==")[0]
        elif line.startswith("-e "):
            egg = re.search(r"#egg=([^&]+)", line)
            names.append(f"-e {egg[1] if egg else commented}")
        else:
            names.append(re.sub(r" @ file:///\S*/", " @ file:///", line))
    return sorted(names)


@pytest.mark.parametrize("how", ["track", "init"])
def test_what_was_recorded_runs_again_byte_for_byte_and_line_for_line(
    stack: Stack, client: Client, tmp_path: Path, how: str
) -> None:
    job = f"replay-{how}"
    init = f'import towline; towline.init(job="{job}")' if how == "init" else ""
    project = Project(tmp_path / "project", init)
    command = [str(project.python), "-B", "train.py"]
    if how == "init":
        done = subprocess.run(
            command,
            cwd=project.checkout.root,
            env=stack.client_environment,
            capture_output=True,
            text=True,
            check=False,
        )
    else:
        tracked = ("track", "--name", job, "--", *command)
        done = towline(*tracked, env=stack.client_environment, cwd=project.checkout.root)
    assert done.returncode == 0, done.stderr
    assert f"recorded {job}:v0" in done.stderr, done.stderr
    assert "left out" not in done.stderr, "all of it is recorded"
    recorded = printed(done.stdout)
    outer = {
        path.relative_to(project.outer.root).as_posix()
        for path in project.outer.root.rglob("*")
        if path.is_file()
    }
    contents = {path: (project.outer.root / path).read_bytes() for path in outer}
    shutil.rmtree(project.folder)

    ended = client.runs.wait(client.runs.submit(submission(job)).name)

    log = b"".join(piece.data for piece in client.logs.tail(ended.name)).decode()
    assert ended.state == runs_pb2.RUN_STATE_SUCCEEDED, (ended, log)
    replayed = printed(log)
    copied = {path for path in replayed["tree"] if path.startswith(COPIES)}
    assert {path.removeprefix(COPIES) for path in copied} == contents.keys()
    tree = {path: value for path, value in replayed["tree"].items() if path not in copied}
    ignored = {path for path in recorded["tree"] if path == "scratch.log" or ".egg-info/" in path}
    assert "scratch.log" in ignored
    assert tree == {path: value for path, value in recorded["tree"].items() if path not in ignored}
    assert replayed["said"] == recorded["said"] == ["demo_wheel 2.5", "inner 0.1", "outer 0.1"]
    # Towline is in the container by other means, and so is nothing that was installed for it alone.
    for kind, lines in (("installed", list), ("freeze", frozen)):
        without = set(lines(recorded[kind])) - set(lines(replayed[kind]))
        assert bool(without) == (how == "init"), without
        assert lines(replayed[kind]) == [line for line in lines(recorded[kind]) if line not in without]
        assert {re.split("[ =]", line)[0].lower() for line in without} <= towline_needs()
    assert "six==1.17.0" in replayed["freeze"]
    assert any(line.startswith("demo_wheel @ file://") and "#sha256=" in line for line in replayed["freeze"])


def towline_needs() -> set[str]:
    """Names of Towline and of what its SDK alone needs."""
    return {
        "towline",
        "grpcio",
        "grpcio-status",
        "googleapis-common-protos",
        "pathspec",
        "protobuf",
        "typing_extensions",
    }
