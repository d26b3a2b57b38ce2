"""Locks, wheels and commits: how an agent installs them. Decisions only."""

import hashlib
import json

import pytest

from towline.errors import InvalidArgument, NotFound
from towline.v1 import jobs_pb2
from towline_agent.core import keys, recipe, repositories
from towline_agent.core.conda import Channels
from towline_agent.core.locks import Locked, read_lock

COMMIT = "c0ffee" * 6 + "beef"
INSTALL = "uv pip install"


def read(files: dict[str, str], path: str, *extras: str, digest: str | None = None) -> Locked:
    def find(wanted: str) -> bytes:
        if wanted not in files:
            raise NotFound(f"the source tree has no file {wanted}", reason="SOURCE_FILE_NOT_FOUND")
        return files[wanted].encode()

    kind = jobs_pb2.LOCK_FORMAT_UV_LOCK if path.endswith(".lock") else jobs_pb2.LOCK_FORMAT_REQUIREMENTS_TXT
    if digest is None:
        digest = f"sha256:{hashlib.sha256(files.get(path, '').encode()).hexdigest()}"
    lock = jobs_pb2.DependencyLock(format=kind, path=path, digest=digest, extras=extras)
    return read_lock(lock, find, INSTALL)


def test_what_lies_in_the_source_is_left_for_later() -> None:
    files = {
        "my py/r.txt": "six==1.17.0 \\\n  --hash=sha256:aa #\n-r ../b.txt\n-e .\n./a-1-py3-none-any.whl\n",
        "b.txt": "-c my%20py/c.txt\nidna\n./lib\n",
        "my%20py/c.txt": "idna==3.10",
    }
    locked = read(files, "my py/r.txt")
    assert locked.files == {
        "my py/r.txt": b"six==1.17.0 --hash=sha256:aa\n-r ../b.txt\n",
        "b.txt": b"-c my%20py/c.txt\nidna\n",
        "my%20py/c.txt": b"idna==3.10\n",
    }
    assert locked.fetch == "cd '/towline/lock/my py'\nuv pip install --compile-bytecode --requirements r.txt"
    assert locked.project == "cd 'my py'\nuv pip install --requirements r.txt"
    assert read({"r.txt": "six"}, "r.txt").project == ""


def test_files_that_include_each_other_end() -> None:
    assert set(read({"a.txt": "-r b.txt", "b.txt": "-r a.txt\nsix"}, "a.txt").files) == {"a.txt", "b.txt"}
    chain = {f"{number}.txt": f"-r {number + 1}.txt" for number in range(2000)}
    with pytest.raises(InvalidArgument, match="more than 100 files"):
        read(chain, "0.txt")


def test_what_is_fetched_is_named_by_its_content_and_the_rest_is_not() -> None:
    one = read({"r.txt": "six==1\n-r b.txt\n-e ./a", "b.txt": "idna"}, "r.txt")
    same = read({"r.txt": "six==1  # more\n-r b.txt\n-e ./b", "b.txt": "idna"}, "r.txt")
    other = read({"r.txt": "six==1\n-r b.txt\n-e ./a", "b.txt": "idna<3"}, "r.txt")
    assert one.digest == same.digest != other.digest


@pytest.mark.parametrize(
    ("text", "said"),
    [("no requirement", "line 1"), ("-r ../../x", "outside of the source tree"), ("-r /x", "outside")],
)
def test_what_is_no_requirements_file(text: str, said: str) -> None:
    with pytest.raises(InvalidArgument, match=said):
        read({"a/r.txt": text}, "a/r.txt")


def test_another_file_than_the_recorded_one_and_a_missing_one() -> None:
    with pytest.raises(InvalidArgument, match="not the recorded sha256:x"):
        read({"r.txt": "six"}, "r.txt", digest="sha256:x")
    assert read({"r.txt": "six"}, "r.txt", digest="").files, "a git source has no digest of it"
    with pytest.raises(NotFound, match=r"b\.txt"):
        read({"r.txt": "-r b.txt"}, "r.txt")
    lock = jobs_pb2.DependencyLock(format=99, path="x")  # type: ignore[arg-type]  # of a later version
    with pytest.raises(InvalidArgument, match="upgrade the agent"):
        read_lock(lock, lambda _: b"", INSTALL)


UV = """
version = 1
[[package]]
name = "fit"
source = { virtual = "." }
[package.optional-dependencies]
fast = []
both = []
[package.dev-dependencies]
"a b" = []
both = []
"""


def test_extras_and_groups_of_uv() -> None:
    files = {"py/uv.lock": UV, "py/pyproject.toml": "[project]"}
    locked = read(files, "py/uv.lock", "fast", "a b", "both")
    chosen = " --extra fast --group 'a b' --extra both --group both"
    assert f"{chosen} --output-file" in locked.fetch and locked.fetch.startswith("cd /towline/lock/py\n")
    assert set(locked.files) == set(files)
    assert locked.project == "", "a project that is no package is not installed"
    editable = {**files, "py/uv.lock": UV.replace("virtual", "editable")}
    assert read(editable, "py/uv.lock").project.startswith("cd py\n$uv sync --frozen")
    with pytest.raises(InvalidArgument, match="no extra or group 'slow'"):
        read(files, "py/uv.lock", "slow")
    with pytest.raises(InvalidArgument, match="no TOML"):
        read({"uv.lock": "["}, "uv.lock")
    for wrong in ("package = 1", "package = [1]", "[[package]]\nsource = 1"):
        with pytest.raises(InvalidArgument, match="its packages are none"):
            read({"uv.lock": wrong}, "uv.lock")


def test_what_has_no_lock_reads_none() -> None:
    def never(path: str) -> bytes:
        raise AssertionError(path)

    plain = jobs_pb2.PythonEnvironment(requirements=["six"])
    assert recipe.locked_environment(plain, never, Channels()) is None
    plain.lock.format = jobs_pb2.LOCK_FORMAT_CONDA_ENVIRONMENT
    assert keys.lock_id(plain) and not keys.lock_id(jobs_pb2.PythonEnvironment())


def test_commits_are_installed_from_checkouts_and_noted_as_what_they_are() -> None:
    lines = [
        "six==1.17.0",
        f"a @ git+https://host/a.git@{COMMIT}",
        f"b[x] @ git+ssh://git@host/b.git@{COMMIT}#subdirectory=py/b",
        "c @ git+https://host/c.git@main",
        f"d @ git+https://host/d.git@{COMMIT} ; python_version > '3'",
    ]
    a, b = repositories.find(lines)
    assert (a.remote, a.commit, b.remote) == ("https://host/a.git", COMMIT, "ssh://git@host/b.git")
    environment = jobs_pb2.PythonEnvironment(version="3.11", requirements=lines, complete=True)
    files = recipe.build_files(environment, recipe.Indexes())
    assert files["requirements.txt"].decode().splitlines() == [
        "six==1.17.0",
        "a @ file:///towline/git/0",
        "b[x] @ file:///towline/git/1/py/b",
        *lines[3:],
    ]
    noted = json.loads(files["origins.json"])
    assert noted["file:///towline/git/1/py/b"] == {
        "url": "ssh://git@host/b.git",
        "vcs_info": {"vcs": "git", "commit_id": COMMIT, "requested_revision": COMMIT},
        "subdirectory": "py/b",
    }
    assert b"origins.py" not in recipe.build_files(jobs_pb2.PythonEnvironment(), recipe.Indexes())["install"]


@pytest.mark.parametrize(
    "name", ["a.whl", "a-1-py3-none-any.zip", "../a-1-py3-none-any.whl", "a-1-py3-none-any.whl\nx", ""]
)
def test_a_file_name_that_is_no_wheels_is_refused(name: str) -> None:
    environment = jobs_pb2.PythonEnvironment(wheels=[jobs_pb2.Wheel(filename=name)])
    with pytest.raises(InvalidArgument, match="is no file name of a wheel"):
        recipe.build_files(environment, recipe.Indexes())


def test_a_wheel_is_installed_with_its_hash() -> None:
    wheel = jobs_pb2.Wheel(filename="a_b-1.0+cu121-1-cp311-cp311-linux_x86_64.whl", digest="sha256:aa")
    files = recipe.build_files(jobs_pb2.PythonEnvironment(wheels=[wheel]), recipe.Indexes())
    line = b"a_b @ file:///towline/wheels/a_b-1.0%2Bcu121-1-cp311-cp311-linux_x86_64.whl#sha256=aa\n"
    assert files["requirements.txt"] == line
