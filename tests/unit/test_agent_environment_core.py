"""Mirrors, platforms, logins of indexes and environments of conda: what containers of builds are given."""

import json
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast

import pytest

from towline.errors import InvalidArgument
from towline.v1 import jobs_pb2
from towline.v1.jobs_pb2 import LOCK_FORMAT_CONDA_ENVIRONMENT, LOCK_FORMAT_REQUIREMENTS_TXT
from towline_agent import tars
from towline_agent.conda import activation
from towline_agent.core import recipe
from towline_agent.core.conda import Channels, logins_file, read_environment
from towline_agent.core.containers import ImageFacts
from towline_agent.core.contents import LIST_CONTENTS
from towline_agent.core.keys import EnvironmentKey
from towline_agent.core.platforms import serves, written
from towline_agent.core.recipe import Indexes
from towline_agent.core.system_packages import Mirrors, install_files
from towline_agent.engine.port import ContainerId, Engine
from towline_agent.environments import environment_key


def test_sources_name_the_mirrors_and_their_logins_are_elsewhere(tmp_path: Path) -> None:
    mirrors = Mirrors(
        {
            "http://deb.debian.example": "https://me:p%40ss@mirror.example/deb",
            "http://deb.debian.example/debian-security": "https://other.example/a&b",
        }
    )
    files = install_files(["tree", "a=1:2"], mirrors)
    script = tmp_path / "mirrors.sed"
    script.write_bytes(files["apt/mirrors.sed"])
    sources = (
        "deb http://deb.debian.example/debian bookworm main\nURIs: http://deb.debian.example\n"
        "deb http://deb.debian.example/debian-security x main\ndeb http://debxdebian.example/debian y main\n"
    )
    done = subprocess.run(["sed", "-f", script], input=sources, capture_output=True, text=True, check=True)
    assert done.stdout == (
        "deb https://mirror.example/deb/debian bookworm main\nURIs: https://mirror.example/deb\n"
        "deb https://other.example/a&b x main\ndeb http://debxdebian.example/debian y main\n"
    )
    assert files["apt/auth.conf"] == b"machine https://mirror.example/deb login me password p@ss\n"
    assert b"install tree a=1:2\n" in files["install"]
    assert "apt/mirrors.sed" not in install_files(["tree"], Mirrors())


@pytest.mark.parametrize(
    ("has", "wanted", "answer"),
    [
        ("linux/amd64", "linux/amd64", True),
        ("linux/amd64", "linux/arm64", False),
        ("linux/arm64", "linux/arm64/v8", True),
        ("linux/arm/v6", "linux/arm/v7", False),
        ("", "linux/amd64", True),
        ("linux/amd64", "", True),
    ],
)
def test_platforms(has: str, wanted: str, answer: bool) -> None:
    assert serves(has, wanted) is answer
    assert (written("linux", "arm", "v7"), written("linux", "amd64"), written("linux", "")) == (
        "linux/arm/v7",
        "linux/amd64",
        "",
    )


def test_an_index_of_the_job_gets_the_login_that_the_agent_has_for_its_server() -> None:
    python = jobs_pb2.PythonEnvironment(
        extra_index_urls=["https://gpu.example/cu124", "https://own.example:8443/x", "http://own.example/y"]
    )
    indexes = Indexes("https://pypi.example/simple", ("https://me:secret@own.example:8443/simple",))
    assert indexes.urls(python) == (
        "https://gpu.example/cu124",
        "https://me:secret@own.example:8443/x",
        "http://own.example/y",
        "https://me:secret@own.example:8443/simple",
        "https://pypi.example/simple",
    )


def test_channels_are_those_of_the_agent_and_their_logins_stay_out_of_the_plan() -> None:
    channels = Channels({"conda-forge": "https://me:secret@mirror.example/forge"}, cuda="12.4")
    text = b"channels: [conda-forge, bioconda, https://x.example/c/, defaults, nodefaults]\n"
    text += b"dependencies: [a, bioconda::b]\n"
    locked = read_environment("environment.yml", text, "3.11", channels)
    assert locked is not None
    (content,) = locked.files.values()
    assert json.loads(content) == {
        "channels": [
            "https://mirror.example/forge",
            "https://conda.anaconda.org/bioconda",
            "https://x.example/c",
            "https://repo.anaconda.com/pkgs/main",
            "https://repo.anaconda.com/pkgs/r",
        ],
        "specs": ["a", "https://conda.anaconda.org/bioconda::b", "python 3.11.*"],
        "variables": {},
        "cuda": "12.4",
    }
    logins = json.loads(logins_file(channels.urls))
    assert logins == {"mirror.example": {"BasicHTTP": {"username": "me", "password": "secret"}}}


def test_conda_is_not_asked_for_what_it_has_no_part_in() -> None:
    for text in (b"dependencies: [python=3.11, pip, {pip: [six]}]", b"dependencies: [{pip: [six]}]"):
        assert read_environment("environment.yml", text, "3.11", Channels()) is None
    python = jobs_pb2.PythonEnvironment(version="3.11.2", requirements=["six"])
    locked = read_environment("environment.yml", b"dependencies: [ffmpeg]", "3.11", Channels())
    steps = recipe.build_files(python, Indexes(), locked)["install"].decode()
    assert "uv venv" not in steps and steps.index("conda_install.py") < steps.index("requirements.txt")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "x: [&a [y, y], &b [*a, *a], &c [*b, *b]]\ndependencies: [*c]",
            "dependencies is no text of at most",
        ),
        ("dependencies: [x]\nchannels: [[a]]", "channels is no text"),
        ("dependencies: [x]\nvariables: {a: {b: c}}", "variables is no text"),
        (f"dependencies: [{'x' * 4097}]", "dependencies is no text"),
        (f"x: &a y\ndependencies: [{'*a,' * 5001}]", "5001 dependencies are too many"),
        (f"dependencies: {'[' * 5000}{']' * 5000}", "is no YAML"),
        (f"dependencies: [x] #{'x' * 2**20}", "is too large"),
    ],
)
def test_an_environment_of_conda_that_is_made_to_be_large_is_refused(text: str, problem: str) -> None:
    with pytest.raises(InvalidArgument, match=problem):
        read_environment("environment.yml", text.encode(), "3.11", Channels())


def test_what_a_node_makes_of_an_environment_of_conda_is_in_its_key() -> None:
    """Nodes share images by key: one with an older driver must not get what another one's was chosen by."""
    conda = jobs_pb2.PythonEnvironment(
        lock=jobs_pb2.DependencyLock(format=LOCK_FORMAT_CONDA_ENVIRONMENT, path="e.yml")
    )
    pip = jobs_pb2.PythonEnvironment(
        lock=jobs_pb2.DependencyLock(format=LOCK_FORMAT_REQUIREMENTS_TXT, path="r.txt")
    )
    base = ImageFacts("sha256:1")

    def key(python: jobs_pb2.PythonEnvironment, channels: Channels) -> EnvironmentKey:
        return environment_key(python, base, Indexes(), channels)

    login = Channels({"a": "https://me:secret@x.example/a"}, "12.4")
    none = Channels({"a": "https://x.example/a"}, "12.4")
    others = (Channels({"a": "https://y.example/a"}, "12.4"), Channels(none.by_name, "11.8"))
    assert key(conda, login) == key(conda, none)
    assert all(key(conda, other) != key(conda, none) for other in others)
    assert all(key(pip, other) == key(pip, none) for other in others)


def test_what_an_installer_left_half_does_not_keep_an_image_from_being_made(tmp_path: Path) -> None:
    for name, content in (("whole", "Name: whole\nVersion: 1.0\n"), ("half", "Name: half\n"), ("no", "")):
        (tmp_path / f"{name}-1.dist-info").mkdir()
        (tmp_path / f"{name}-1.dist-info" / "METADATA").write_text(content)
    file = tmp_path / "contents.json"
    subprocess.run([sys.executable, "-c", LIST_CONTENTS, file], env={"PYTHONPATH": str(tmp_path)}, check=True)
    listed = {one["purl"] for one in json.loads(file.read_text())["components"]}
    assert "pkg:pypi/whole@1.0" in listed
    assert not any(purl.startswith(("pkg:pypi/half", "pkg:pypi/no@")) for purl in listed)


class _Container:
    """An engine whose containers have one file."""

    def __init__(self, name: str, content: bytes) -> None:
        self._entry = tars.Entry(name, content)

    def get_archive(self, container: str, path: str) -> AsyncIterator[bytes]:
        return tars.stream([self._entry])


async def test_what_activating_sets_is_read_with_care() -> None:
    """It lies where every package's build script could write."""

    async def read(content: bytes) -> tuple[str, ...]:
        engine = cast("Engine", _Container("activation.json", content))
        return await activation(engine, ContainerId("c"))

    assert await read(b'{"A": "1", "B": "x=y"}') == ("A=1", "B=x=y")
    for content in (b"{", b"[]", b"\xff", b"[" * 100_000, b"x" * 2**21):
        with pytest.raises(InvalidArgument, match=r"has changed /towline/activation\.json"):
            await read(content)
