"""Mirrors, platforms, logins of indexes and environments of conda: what containers of builds are given."""

import json
import subprocess
from pathlib import Path

import pytest

from towline.v1 import jobs_pb2
from towline_agent.core import recipe
from towline_agent.core.conda import Channels, logins_file, read_environment
from towline_agent.core.platforms import serves, written
from towline_agent.core.recipe import Indexes
from towline_agent.core.system_packages import Mirrors, install_files


def test_sources_name_the_mirrors_and_their_logins_are_elsewhere(tmp_path: Path) -> None:
    mirrors = Mirrors(
        {
            "http://deb.debian.org": "https://me:p%40ss@mirror.example/deb",
            "http://deb.debian.org/debian-security": "https://other.example/a&b",
        }
    )
    files = install_files(["tree", "a=1:2"], mirrors)
    script = tmp_path / "mirrors.sed"
    script.write_bytes(files["apt/mirrors.sed"])
    sources = (
        "deb http://deb.debian.org/debian bookworm main\nURIs: http://deb.debian.org\n"
        "deb http://deb.debian.org/debian-security x main\ndeb http://debxdebian.org/debian y main\n"
    )
    done = subprocess.run(["sed", "-f", script], input=sources, capture_output=True, text=True, check=True)
    assert done.stdout == (
        "deb https://mirror.example/deb/debian bookworm main\nURIs: https://mirror.example/deb\n"
        "deb https://other.example/a&b x main\ndeb http://debxdebian.org/debian y main\n"
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
