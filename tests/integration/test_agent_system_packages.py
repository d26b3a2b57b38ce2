"""Packages of the base image's distribution, platforms, and base images without what environments need."""

from uuid import uuid4

import pytest

from towline.v1 import docker_pb2, jobs_pb2, leases_pb2, runs_pb2
from towline_agent.builder import Ready
from towline_testing.agent import code_spec
from towline_testing.builds import Builds, always, run_in, unique
from towline_testing.engine import PYTHON, base_image, docker, remove_images

pytestmark = pytest.mark.docker


async def job(builds: Builds, *requirements: str, system: tuple[str, ...] = ()) -> jobs_pb2.JobSpec:
    made = code_spec(*await builds.source(main_py=unique()), requirements=requirements)
    made.python.system_packages.extend(system)
    return made


def told(got: Ready | leases_pb2.AttemptResult) -> str:
    assert isinstance(got, leases_pb2.AttemptResult)
    return got.failure.message


async def test_a_changed_requirement_does_not_install_the_system_packages_again(builds: Builds) -> None:
    one = await builds(await job(builds, f"six==1.17.0; {always()}", system=("hello", "tree")))
    assert isinstance(one, Ready), (one, builds.log.data)
    assert run_in(one.facts.id, "hello", "--greeting=here") == "here"
    assert (
        run_in(one.facts.id, "sh", "-c", "find /var/lib/apt/lists /var/cache/apt -type f -size +1k; id -u")
        == "1000"
    )
    builds.log.data = b""
    other = await builds(await job(builds, f"idna==3.10; {always()}", system=("tree", "hello")))
    assert isinstance(other, Ready)
    assert b"system packages" not in builds.log.data
    assert run_in(other.facts.id, "sh", "-c", "tree --version && python -c 'import idna'").startswith("tree")


async def test_a_system_package_that_does_not_exist_is_named(builds: Builds) -> None:
    got = await builds(await job(builds, system=("towline-no-such-package", "tree")))
    assert "system package `towline-no-such-package` cannot be installed: " in told(got)
    got = await builds(await job(builds, system=("tree=99.1",)))
    assert "system package `tree=99.1`" in told(got)


async def test_a_base_image_without_python_gets_one_of_its_distribution(builds: Builds) -> None:
    name = f"towline-bare-{uuid4().hex}"
    remove = "dpkg --purge --force-all $(dpkg-query -Wf '${Package}\n' '*python*')"
    docker("run", "--name", name, base_image(), "sh", "-c", remove)
    docker("commit", name, f"{name}:1")
    docker("rm", name)
    image = docker_pb2.DockerImageOptions(base_image=f"{name}:1")
    try:
        got = await builds(await job(builds), image=image)
        assert f"has no Python {PYTHON}" in told(got) and "image.base_image" in told(got)
        got = await builds(await job(builds, "six==1.17.0", system=(f"python{PYTHON}",)), image=image)
        assert isinstance(got, Ready), (got, builds.log.data)
        assert run_in(got.facts.id, "python", "-c", "import six; print(six.__version__)") == "1.17.0"
        assert f"towline: system packages: python{PYTHON}\n".encode() in builds.log.data
    finally:
        remove_images(builds.name)
        docker("rmi", "--force", f"{name}:1")


async def test_a_platform_that_the_engine_has_not_is_told(builds: Builds) -> None:
    here = await builds.engine.platform()
    wanted = await job(builds)
    wanted.platform = here
    got = await builds(wanted)
    assert isinstance(got, Ready)
    assert got.facts.platform == here
    wanted.platform = "linux/s390x"
    message = told(await builds(wanted))
    assert "linux/s390x" in message and f"runs {here}" in message
    image = jobs_pb2.JobSpec(image=jobs_pb2.ImageSource(reference=base_image()), platform="linux/s390x")
    got = await builds(image)
    assert "linux/s390x" in told(got)
    assert isinstance(got, leases_pb2.AttemptResult)
    assert got.failure.cause == runs_pb2.FAILURE_CAUSE_IMAGE_PULL
