"""What an image was to be made of, and that is removed just then."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest

from towline.errors import Unavailable
from towline_agent.builder import Ready
from towline_agent.engine.docker import DockerEngine
from towline_agent.engine.port import ContainerId, Image
from towline_agent.telling import Tell
from towline_testing.agent import code_spec, launch_spec
from towline_testing.builds import Builds, always, unique

pytestmark = pytest.mark.docker


async def test_an_environment_is_made_of_the_base_image_where_the_other_is_gone(
    builds: Builds, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, marked = uuid4().hex, f"iniconfig==2.0.0; {always()}"

    async def build(version: str) -> None:
        requirements = ("attrs==24.2.0", "packaging==24.1", "pluggy==1.5.0", "six==1.16.0", version, marked)
        spec = code_spec(*await builds.source(main_py=unique()), requirements=requirements)
        spec.python.complete = True
        launched = launch_spec(spec)
        launched.job_version = f"jobs/{job}/versions/v0"
        got = await builds.images.ensure(launched, builds.log, Tell(builds.told.append))
        assert isinstance(got, Ready), got
        builds.made.append(got.facts.id)

    await build("idna==3.9")
    images = DockerEngine.images

    async def gone(engine: DockerEngine, labels: Mapping[str, str]) -> list[Image]:
        return [replace(image, id=f"sha256:{0:064}") for image in await images(engine, labels)]

    monkeypatch.setattr(DockerEngine, "images", gone)
    await build("idna==3.10")
    assert b"starting anew, on the base image" in builds.log.data


async def test_a_build_whose_start_was_removed_meanwhile_may_be_tried_again(
    builds: Builds, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = DockerEngine.create

    async def gone(engine: DockerEngine, name: str, config: Mapping[str, Any]) -> ContainerId:
        return await create(engine, name, dict(config) | {"Image": f"sha256:{0:064}"})

    job = code_spec(*await builds.source(main_py=unique()), requirements=())
    monkeypatch.setattr(DockerEngine, "create", gone)
    with pytest.raises(Unavailable, match="removed from the engine"):
        await builds(job)
    monkeypatch.setattr(DockerEngine, "create", create)
    assert isinstance(await builds(job), Ready)
