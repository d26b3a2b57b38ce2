"""Environment images: what a job's packages are installed into, shared by all jobs that have the same."""

from contextlib import AsyncExitStack
from dataclasses import replace
from importlib.metadata import version

from towline.errors import NotFound
from towline.v1 import jobs_pb2, leases_pb2, runs_pb2
from towline_agent import conda
from towline_agent.builds import Build
from towline_agent.core import ancestors, keys, recipe
from towline_agent.core.ancestors import Ancestor
from towline_agent.core.conda import Channels
from towline_agent.core.containers import ImageFacts
from towline_agent.core.image_steps import Step
from towline_agent.engine.port import Engine
from towline_agent.installations import Installation, Installations
from towline_agent.node_images import NodeImages
from towline_agent.packages import Fetched, Packages
from towline_agent.sharing import Wanted
from towline_agent.system_images import SystemImages
from towline_agent.telling import Tell

__all__ = ["Environments", "environment_key"]


class Environments:
    """Makes environment images, by running an installation in a container and committing what it leaves.

    Args:
        engine: The engine.
        installations: Runs installations.
        packages: Where packages come from that no index has.
        images: Those of this node.
    """

    def __init__(
        self, engine: Engine, installations: Installations, packages: Packages, images: NodeImages
    ) -> None:
        self._engine = engine
        self._installations = installations
        self._packages = packages
        self._images = images
        self._systems = SystemImages(engine, installations, images)

    async def get(self, build: Build) -> ImageFacts | leases_pb2.AttemptResult:
        """Return a build's environment, reused, pulled or made; or the attempt's result if there is none."""
        tag = keys.environment_tag(build.key)

        async def make(tell: Tell) -> ImageFacts | leases_pb2.AttemptResult:
            return await self._make(replace(build, tell=tell), tag)

        got = await self._images.get(Wanted(f"sha256:{build.key.digest()}", tag, make), build.tell)
        if isinstance(got, leases_pb2.AttemptResult):
            return got
        if got.outcome == runs_pb2.IMAGE_OUTCOME_REUSED:
            build.tell.did(Step("reuse the environment"))
        return got.facts

    async def _make(self, build: Build, tag: str) -> ImageFacts | leases_pb2.AttemptResult:
        ancestor = None
        if ancestors.may_descend(build.key):
            ancestor = ancestors.closest(build.key, build.job, await self._ancestors())
        if ancestor is None or not await self._descends(build, tag, ancestor):
            refused = await self._install(build, tag, None)
            if refused is not None:
                return refused
        return await self._images.made(tag)

    async def _descends(self, build: Build, tag: str, ancestor: Ancestor) -> bool:
        """Make an environment image of another one; False: it is to be made of the base image."""
        try:
            done = await self._install(build, tag, ancestor) is None
        except NotFound as error:  # somebody has removed the other one since it was listed
            await build.log.write(f"towline: {error.message}\n".encode())
            done = False
        if not done:
            await build.log.write(b"towline: starting anew, on the base image\n")
        return done

    async def _ancestors(self) -> list[Ancestor]:
        found = await self._engine.images({ancestors.LABEL_ENVIRONMENT: ""})
        read = (Ancestor.read(image.id, image.labels) for image in found)
        return [one for one in read if one is not None]

    async def _install(
        self, build: Build, tag: str, ancestor: Ancestor | None
    ) -> leases_pb2.AttemptResult | None:
        """Make an environment image, of the base image or of what differs from another environment."""
        start = await self._start(build, ancestor)
        if isinstance(start, leases_pb2.AttemptResult):
            return start
        what = _what(build, ancestor)
        build.tell(f"installing {what} for Python {build.key.python}")
        await build.log.write(f"towline: Python {build.key.python}, {what}\n".encode())
        async with AsyncExitStack() as stack:
            with build.tell.step("fetch wheels and checkouts") as step:
                packages = await stack.enter_async_context(self._packages.fetched(build.python, build.tell))
                step.pieces = len(packages.wheels) + len(packages.checkouts)
                step.name = step.name if step.pieces else ""
            config = self._installations.container(start)
            container = await stack.enter_async_context(self._installations.throw_away(config))
            installation = self._installation(build, packages, onto_another=ancestor is not None)
            refused = await self._installations.run(container, installation, build.log, build.tell)
            if refused is not None:
                return refused
            build.tell("keeping the environment as an image")
            with build.tell.step("keep the environment"):
                variables = build.base.environment
                if build.brings_python:
                    variables += await conda.activation(self._engine, container)
                labels = build.labels(self._installations.settings.builder, build.key.digest())
                labels[ancestors.LABEL_ENVIRONMENT] = ancestors.label_of(build.key, build.job, ancestor)
                await self._engine.commit(container, tag, recipe.image_config(variables, labels))
        return None

    def _installation(self, build: Build, packages: Fetched, *, onto_another: bool) -> Installation:
        settings = self._installations.settings
        files = recipe.build_files(build.python, settings.indexes, build.locked, onto_another=onto_another)
        urls = settings.indexes.urls(build.python)
        if not build.brings_python:
            return Installation(files, urls, packages)
        files = {**files, **conda.program_files(settings.channels)}
        return Installation(files, (*urls, *settings.channels.urls), packages, conda.program_trees())

    async def _start(self, build: Build, ancestor: Ancestor | None) -> str | leases_pb2.AttemptResult:
        """Return the id of the image to install onto."""
        if ancestor is not None:
            return ancestor.image_id
        system = await self._systems.get(build)
        return system.id if isinstance(system, ImageFacts) else system


def environment_key(
    python: jobs_pb2.PythonEnvironment, base: ImageFacts, indexes: recipe.Indexes, channels: Channels
) -> keys.EnvironmentKey:
    """Name an environment as its job was recorded: what its lock lists, only the source tree tells."""
    return keys.EnvironmentKey(
        base_image_id=base.id,
        python=recipe.python_version(python),
        requirements=tuple(line.strip() for line in python.requirements if line.strip()),
        index_urls=keys.without_credentials(indexes.urls(python)),
        uv_version=version("uv"),
        wheels=tuple(keys.wheel_id(wheel) for wheel in python.wheels),
        complete=python.complete,
        lock=keys.lock_id(python, channels.id),
        system_packages=tuple(sorted(set(python.system_packages))),
    )


def _what(build: Build, ancestor: Ancestor | None) -> str:
    if ancestor is not None:
        count = len(frozenset(build.key.requirements) - ancestor.requirements)
        return f"{count} requirements that an earlier environment of this job has not"
    if build.locked is not None:
        return f"what {build.python.lock.path} lists"
    return f"{len(build.key.requirements) + len(build.key.wheels)} requirements"
