"""What builds leave on a node: labels, lists of what is in images, and downloads within their budget."""

import json
from collections.abc import Iterator
from uuid import uuid4

import pytest

from towline_agent.builder import DockerImages, Ready
from towline_agent.core.contents import CONTENTS
from towline_agent.download_cache import DownloadCache
from towline_agent.telling import Tell
from towline_testing.agent import code_spec, launch_spec
from towline_testing.builds import Builds, always, run_in, unique
from towline_testing.engine import base_image, docker, inspect
from towline_testing.waiting import eventually

pytestmark = pytest.mark.docker


@pytest.fixture
def volume() -> Iterator[str]:
    """A cache of a test's own: what it removes, other tests would miss."""
    name = f"towline-test-{uuid4().hex}"
    yield name
    docker("volume", "rm", name)


async def build(builds: Builds, images: DockerImages, *requirements: str) -> str:
    """Build an image that has these requirements; returns its id."""
    tree = await builds.source(main_py=unique())
    spec = code_spec(*tree, requirements=(*requirements, f"iniconfig==2.0.0; {always()}"))
    spec.python.complete = True
    launched = launch_spec(spec)
    # Of a job of its own: else it may be made from an environment that is there.
    launched.job_version = f"jobs/{uuid4().hex}/versions/v3"
    got = await images.ensure(launched, builds.log, Tell(builds.told.append))
    assert isinstance(got, Ready), got
    builds.made.append(got.facts.id)
    return got.facts.id


async def test_an_image_lists_what_is_in_it_and_says_what_it_is(builds: Builds) -> None:
    image = await build(builds, builds.images, "six==1.16.0", "Zipp==3.20.2")
    contents = json.loads(run_in(image, "cat", CONTENTS))
    assert (contents["bomFormat"], contents["specVersion"]) == ("CycloneDX", "1.5")
    components = {one["purl"]: one for one in contents["components"]}
    python = sorted(purl for purl in components if purl.startswith("pkg:pypi/"))
    assert python == ["pkg:pypi/iniconfig@2.0.0", "pkg:pypi/six@1.16.0", "pkg:pypi/zipp@3.20.2"]
    written = run_in(
        image, "dpkg-query", "--show", "--showformat=${db:Status-Status} ${Package} ${Version}\\n"
    )
    debian = sorted(line.split()[1:] for line in written.splitlines() if line.startswith("installed"))
    listed = [one for purl, one in components.items() if purl.startswith("pkg:deb/debian/")]
    assert sorted([one["name"], one["version"]] for one in listed) == debian
    labels = inspect(image)["Config"]["Labels"]
    assert labels["towline.job"].endswith("/versions/v3")
    assert labels["towline.made-by"] == builds.name
    (name,) = inspect(image)["RepoTags"]
    assert labels["towline.key"].startswith(f"sha256:{name.removeprefix('towline/job:')}")


def cached(volume: str) -> set[str]:
    """Return the packages whose wheels are in a cache, but for the one that makes environments new."""
    script = "for one in /c/wheels-v*/pypi/* /c/wheels-v*/index/*/*; do basename $one; done"
    found = docker("run", "--rm", f"--volume={volume}:/c:ro", base_image(), "sh", "-c", script)
    return set(found.split()) - {"*", "iniconfig"}


def age(volume: str, package: str) -> None:
    """Have a package be used long ago."""
    script = f"find -L $(find /c/wheels-v* -name {package}) -exec touch -d 2020-01-01 {{}} +"
    docker("run", "--rm", f"--volume={volume}:/c", base_image(), "sh", "-c", script)


async def test_downloads_that_were_used_longest_ago_go_where_there_are_too_many(
    builds: Builds, volume: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = builds.builder(cache_volume=volume)
    monkeypatch.setattr("towline_agent.download_cache._FIRST_AFTER_S", 0.0)
    # There is no image yet, and no volume.
    await DownloadCache(builds.engine, images.installations, 10).tidy()
    await build(builds, images, "six==1.16.0", "setuptools==75.1.0", "packaging==24.1")
    assert cached(volume) == {"six", "setuptools", "packaging"}
    age(volume, "setuptools")
    roomy = DownloadCache(builds.engine, images.installations, 2**30)
    await roomy.tidy()
    assert cached(volume) == {"six", "setuptools", "packaging"}
    await DownloadCache(builds.engine, images.installations, 3 * 2**20).tidy()
    assert cached(volume) == {"six", "packaging"}
    await roomy.empty()
    assert cached(volume) == set()
    assert not await builds.container()
    # What is left is a cache as good as any.
    await build(builds, images, "six==1.16.0")
    assert cached(volume) == {"six"}


async def test_downloads_of_a_build_that_goes_on_stay_and_nobody_waits_for_it(
    builds: Builds, volume: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = builds.builder(cache_volume=volume)
    monkeypatch.setattr("towline_agent.download_cache._AGAIN_AFTER_S", 0.0)
    await build(builds, images, "six==1.16.0")
    # As uv does while it installs.
    holds = ("flock", "--shared", "/c/.lock", "sleep", "120")
    holder = docker("run", "--detach", "--init", f"--volume={volume}:/c", base_image(), *holds)
    try:
        eventually(lambda: len(docker("top", holder).splitlines()) == 4)  # it has started its program
        downloads = DownloadCache(builds.engine, images.installations, 2**30)
        await downloads.empty()
        # One that waits for it would find it ended by now.
        assert cached(volume) == {"six"}
    finally:
        docker("rm", "--force", holder)
    await downloads.empty()
    assert cached(volume) == set()
