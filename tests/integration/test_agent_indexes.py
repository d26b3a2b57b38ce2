"""Indexes that are the agent's: with a login, by an authority of its own; wheels for GPUs."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from towline.v1 import leases_pb2
from towline_agent.builder import Ready
from towline_agent.core.recipe import Indexes
from towline_agent.core.system_packages import Mirrors
from towline_testing.agent import code_spec
from towline_testing.builds import Builds, authorities, exported, run_in, unique
from towline_testing.engine import base_image, docker
from towline_testing.guarded import Guarded, guarded
from towline_testing.wheels import simple_index

pytestmark = pytest.mark.docker


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Guarded]:
    with guarded(tmp_path / "served" / "files") as server:
        simple_index(server.folder / "own", ("team-secret", "1.0", "IS = 'secret'\n"))
        simple_index(server.folder / "whl" / "cu124", ("torch", "2.5.1+cu124", "IS = 'cu124'\n"))
        yield server


async def test_a_private_index_with_a_login_and_an_authority_of_its_own(
    builds: Builds, index: Guarded
) -> None:
    settings = {"ca_bundle": authorities(index.authority), "network": "host", "cache_volume": ""}
    job = code_spec(
        *await builds.source(main_py=unique()), requirements=("team-secret==1.0", "torch==2.5.1+cu124")
    )
    # The job knows where builds for its GPUs are; whose login is needed there, only the agent knows.
    job.python.extra_index_urls.append(index.url("/whl/cu124", login=False))
    builds.images = builds.builder(**settings, indexes=Indexes(extra=(index.url("/own"),)))
    got = await builds(job)
    assert isinstance(got, Ready), (got, builds.log.data.decode())
    image = got.facts.id
    program = "import team_secret, torch, importlib.metadata as m; "
    program += "print(team_secret.IS, torch.IS, m.version('torch'))"
    assert run_in(image, "python", "-c", program) == "secret cu124 2.5.1+cu124"
    traces = exported(image) + builds.log.data + docker("inspect", image).encode()
    assert index.password.encode() not in traces
    authority = index.authority.read_bytes().splitlines()[1]
    assert authority not in traces
    assert not run_in(image, "find", "/etc/ssl/certs", "-newer", "/opt/venv/pyvenv.cfg", "-type", "f")


async def test_an_index_that_does_not_let_the_agent_in_is_told(builds: Builds, index: Guarded) -> None:
    bundle = authorities(index.authority)
    open_url = index.url("/own", login=False)
    for settings, word in (
        (
            {"ca_bundle": bundle, "indexes": Indexes(default=open_url)},
            "TOWLINE_AGENT_BUILD_EXTRA_INDEX_URLS",
        ),
        ({"ca_bundle": None, "indexes": Indexes(default=index.url("/own"))}, "TOWLINE_AGENT_BUILD_CA_BUNDLE"),
    ):
        builds.images = builds.builder(**settings, network="host", cache_volume="")
        got = await builds(
            code_spec(*await builds.source(main_py=unique()), requirements=("team-secret==1.0",))
        )
        assert isinstance(got, leases_pb2.AttemptResult)
        assert "`team-secret`" in got.failure.message and word in got.failure.message
        assert index.password not in got.failure.message + builds.log.data.decode()


def _server_of_packages() -> str:
    """Which server the base image's own sources name, "http://host"."""
    found = run_in(base_image(), "grep", "-rhoE", "https?://[^/ ]+", "/etc/apt")
    return found.splitlines()[0]


async def test_system_packages_come_from_the_agents_mirror(builds: Builds, index: Guarded) -> None:
    index.behind = _server_of_packages()
    builds.images = builds.builder(
        ca_bundle=authorities(index.authority),
        network="host",
        cache_volume="",
        mirrors=Mirrors({index.behind: index.url()}),
    )
    job = code_spec(*await builds.source(main_py=unique()))
    job.python.system_packages.append("towline-not-there")
    got = await builds(job)
    assert isinstance(got, leases_pb2.AttemptResult)
    assert "system package `towline-not-there`" in got.failure.message
    assert any(path.endswith("/InRelease") for path in index.asked), "the lists came from the mirror"
    assert index.password.encode() not in builds.log.data + got.SerializeToString()
