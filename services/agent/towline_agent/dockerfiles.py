"""Images that are built with a project's own Dockerfile, its source tree being the context."""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from towline.errors import FailedPrecondition, InvalidArgument, NotFound
from towline.v1 import docker_pb2, jobs_pb2, leases_pb2, runs_pb2
from towline_agent.base_images import BaseImages
from towline_agent.builders import Builders
from towline_agent.builds import not_built
from towline_agent.core import dockerfile, keys
from towline_agent.core.ancestors import LABEL_ENVIRONMENT
from towline_agent.core.containers import ImageFacts
from towline_agent.core.ownership import made_labels
from towline_agent.dockerfile_log import DockerfileLog
from towline_agent.dockerfile_trees import TreeContents, look_into
from towline_agent.engine.build_port import BuildOrder
from towline_agent.installations import BuildLog, BuildSettings
from towline_agent.node_images import NodeImages, Ready
from towline_agent.sharing import Wanted
from towline_agent.sources import Sources
from towline_agent.telling import Tell

__all__ = ["DockerfileImages"]

_MOST_KNOWN: Final = 256


@dataclass(frozen=True)
class _Tree:
    """A context on this node's disk."""

    contents: TreeContents
    context: Path


class DockerfileImages:
    """Gets images that are built with Dockerfiles: by their content, so each is built once.

    Args:
        sources: Where source trees come from.
        bases: What Dockerfiles start from.
        images: Those of this node.
        builders: What builds.
        settings: How to build.
    """

    def __init__(
        self,
        sources: Sources,
        bases: BaseImages,
        images: NodeImages,
        builders: Builders,
        settings: BuildSettings,
    ) -> None:
        self._sources = sources
        self._bases = bases
        self._images = images
        self._builders = builders
        self._settings = settings
        self._known: OrderedDict[tuple[str, bytes], TreeContents] = OrderedDict()
        """What trees have that were looked into, so that an image that is there needs no tree."""

    async def ensure(
        self, spec: runs_pb2.LaunchSpec, log: BuildLog, tell: Tell
    ) -> Ready | leases_pb2.AttemptResult:
        """Return the image of a run whose spec has a Dockerfile; see ImageBuilder."""
        try:
            async with AsyncExitStack() as stack:
                trees: list[_Tree] = []
                platform = await self._bases.platform()
                contents = self._known.get(_asked(spec))
                if contents is None:
                    trees.append(await stack.enter_async_context(self._tree(spec, platform, tell)))
                    contents = trees[0].contents
                bases = await self._get_bases(contents, platform, tell)
                if isinstance(bases, leases_pb2.AttemptResult):
                    return bases
                digest = _digest(spec.dockerfile, contents, bases, platform)

                async def make(tell: Tell) -> ImageFacts | leases_pb2.AttemptResult:
                    if not trees:
                        trees.append(await stack.enter_async_context(self._tree(spec, platform, tell)))
                    return await self._build(spec, trees[0], digest, log, tell)

                return await self._images.get(Wanted(f"sha256:{digest}", keys.job_tag(digest), make), tell)
        except (FailedPrecondition, InvalidArgument, NotFound) as error:
            return await not_built(error, log)

    @asynccontextmanager
    async def _tree(self, spec: runs_pb2.LaunchSpec, platform: str, tell: Tell) -> AsyncIterator[_Tree]:
        """Give a run's context; it is gone after the block."""
        async with AsyncExitStack() as stack:
            with tell.step("fetch the source"):
                archive = await stack.enter_async_context(self._sources.archive(spec.job, tell))
                context = archive.with_name("context.tar")
                contents = await look_into(archive, context, spec.dockerfile, platform)
            self._known[_asked(spec)] = contents
            if len(self._known) > _MOST_KNOWN:
                self._known.popitem(last=False)
            yield _Tree(contents, context)

    async def _get_bases(
        self, contents: TreeContents, platform: str, tell: Tell
    ) -> dict[str, str] | leases_pb2.AttemptResult:
        """Bring the images that a Dockerfile starts from onto this node; return their ids by reference."""
        found: dict[str, str] = {}
        for reference in contents.needs.bases:
            base = await self._bases.present(
                reference, docker_pb2.PULL_POLICY_IF_NOT_PRESENT, tell, platform=platform
            )
            if isinstance(base, leases_pb2.AttemptResult):
                return base
            found[reference] = base.facts.id
        return found

    async def _build(
        self, spec: runs_pb2.LaunchSpec, tree: _Tree, digest: str, log: BuildLog, tell: Tell
    ) -> ImageFacts | leases_pb2.AttemptResult:
        needs, tag, path = tree.contents.needs, keys.job_tag(digest), spec.dockerfile.path
        engine = await self._builders.choose(needs.needs_buildkit)
        order = BuildOrder(
            tag=tag,
            context=tree.context,
            dockerfile=path,
            build_args=spec.dockerfile.build_args,
            target=spec.dockerfile.target,
            # What its base or its own text says of environments must not make one of it: see core.ancestors.
            labels=made_labels(self._settings.builder, f"sha256:{digest}", spec.job_version)
            | {LABEL_ENVIRONMENT: ""},
            network=self._settings.network,
            secrets={name: file for name, file in self._settings.secrets.items() if name in needs.secrets},
        )
        secrets = await asyncio.to_thread(_read, order.secrets)
        shown = DockerfileLog(path, log, tell, secrets)
        await shown.say(f"building {path} with {engine.name}")
        for name in needs.secrets:
            if name not in order.secrets:
                await shown.say(f"this agent has no secret {name} (TOWLINE_AGENT_BUILD_SECRETS)")
        with tell.step(f"build {path}") as step:
            async with aclosing(engine.build(order)) as events:
                async for event in events:
                    await shown.take(event)
            step.pieces, step.cached = shown.steps, shown.cached
        if shown.result is not None:
            return shown.result
        await shown.say(f"built {tag}")
        return await self._images.made(tag)


def _asked(spec: runs_pb2.LaunchSpec) -> tuple[str, bytes]:
    return keys.source_id(spec.job), spec.dockerfile.SerializeToString(deterministic=True)


def _digest(
    build: jobs_pb2.DockerfileBuild, contents: TreeContents, bases: Mapping[str, str], platform: str
) -> str:
    key = dockerfile.BuildKey(
        dockerfile=contents.text,
        context=contents.context,
        build_args=dict(build.build_args),
        target=build.target,
        bases=bases,
        platform=platform,
    )
    return key.digest()


def _read(secrets: Mapping[str, Path]) -> list[bytes]:
    """Read secrets, for the log that must not show them.

    Raises:
        FailedPrecondition: A file cannot be read; the message names it, and the setting.
    """
    found = []
    for name, file in secrets.items():
        try:
            found.append(file.read_bytes())
        except OSError as error:
            raise FailedPrecondition(
                f"the secret {name} cannot be read on this agent: {file}: {error.strerror} "
                "(TOWLINE_AGENT_BUILD_SECRETS)",
                reason="NO_SECRET",
            ) from None
    return found
