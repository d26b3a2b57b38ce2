"""Environments of conda: solved, fetched from a channel with a login, linked, activated."""

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest

from towline.v1 import jobs_pb2, leases_pb2
from towline_agent.builder import Ready
from towline_agent.core.conda import Channels
from towline_testing.agent import code_spec
from towline_testing.builds import Builds, authorities, exported, run_in, unique
from towline_testing.conda_channel import CondaChannel
from towline_testing.engine import PYTHON
from towline_testing.guarded import Guarded, guarded

pytestmark = pytest.mark.docker


@pytest.fixture
async def channel(builds: Builds, tmp_path: Path) -> AsyncIterator[Guarded]:
    """A channel that only the agent has the login of; environments call it "team"."""
    with guarded(tmp_path / "served" / "files") as server:
        await CondaChannel(server.folder / "team").publish()
        builds.images = builds.builder(
            channels=Channels({"team": server.url("/team")}),
            ca_bundle=authorities(server.authority),
            network="host",
        )
        yield server


async def environment(builds: Builds, text: str, *requirements: str) -> jobs_pb2.JobSpec:
    """A job with an environment.yml, and what its pip section lists."""
    job = code_spec(
        *await builds.tree({"main.py": unique(), "environment.yml": text}), requirements=requirements
    )
    job.python.lock.format = jobs_pb2.LOCK_FORMAT_CONDA_ENVIRONMENT
    job.python.lock.path = "environment.yml"
    job.python.lock.digest = f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
    return job


async def test_an_environment_of_conda(builds: Builds, channel: Guarded) -> None:
    mode = uuid4().hex
    text = (
        f"channels: [team, nodefaults]\ndependencies:\n- python={PYTHON}\n- tool=1.2\n- team::pure\n"
        f"- pip: [six==1.17.0]\nvariables: {{MODE: {mode}}}\n"
    )
    got = await builds(await environment(builds, text, "six==1.17.0"))
    assert isinstance(got, Ready), (got, builds.log.data.decode())
    image = got.facts.id
    assert run_in(image, "tool") == f"{mode} /opt/venv /opt/venv/share/tool"
    assert run_in(image, "python", "-c", "import pure, six; print(pure.IS, six.__version__)") == "pure 1.17.0"
    assert run_in(image, "sh", "-c", "id -u; pwd; echo $CONDA_PREFIX").split() == [
        "1000",
        "/workspace",
        "/opt/venv",
    ]
    assert b" + tool=1.2=0\n" in builds.log.data
    saved = exported(image)
    assert channel.password.encode() not in saved + builds.log.data
    assert run_in(image, "find", "/opt", "/usr", "/home", "/workspace", "-name", "*rattler*") == ""
    # Packages stay on the node: another environment does not fetch them again.
    fetched = len(channel.asked)
    got = await builds(await environment(builds, text.replace(mode, uuid4().hex), "six==1.17.0"))
    assert isinstance(got, Ready)
    assert not [path for path in channel.asked[fetched:] if path.endswith(".tar.bz2")]


async def test_a_package_that_no_channel_has_is_named(builds: Builds, channel: Guarded) -> None:
    for spec in ("towline-none", "tool=9"):
        got = await builds(await environment(builds, f"channels: [team]\ndependencies: [{spec}]\n"))
        assert isinstance(got, leases_pb2.AttemptResult)
        assert (
            f"package `{spec.partition('=')[0]}" in got.failure.message and "of conda" in got.failure.message
        )
    assert channel.password.encode() not in builds.log.data + got.SerializeToString()


async def test_python_and_packages_of_pip_need_no_conda(builds: Builds) -> None:
    text = f"dependencies:\n- python={PYTHON}\n- pip\n- pip: [six==1.17.0]\n"
    got = await builds(await environment(builds, text, "six==1.17.0"))
    assert isinstance(got, Ready)
    assert run_in(got.facts.id, "python", "-c", "import sys; print(sys.base_prefix)") == "/usr"


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("dependencies: 3", "no list of dependencies"),
        ("[", "is no YAML"),
        ("dependencies: ['=']", "'='"),
        ("channels: x\ndependencies: [a]", "channels are no list"),
    ],
)
async def test_what_is_no_environment_is_told(builds: Builds, text: str, word: str) -> None:
    got = await builds(await environment(builds, text))
    assert isinstance(got, leases_pb2.AttemptResult)
    assert word in got.failure.message
