"""System images: a base image with packages of its distribution, which environments are made of."""

from dataclasses import dataclass, replace

from towline.v1 import leases_pb2
from towline_agent.builds import Build
from towline_agent.core import keys, recipe, system_packages
from towline_agent.core.containers import ImageFacts
from towline_agent.engine.port import Engine
from towline_agent.installations import Installation, Installations
from towline_agent.node_images import NodeImages, Ready
from towline_agent.packages import NOTHING
from towline_agent.sharing import Wanted
from towline_agent.telling import Tell

__all__ = ["SystemImages"]


@dataclass(frozen=True)
class SystemImages:
    """Makes system images, each in a container of its base image."""

    engine: Engine
    installations: Installations
    images: NodeImages
    """Those of this node."""

    async def get(self, build: Build) -> ImageFacts | leases_pb2.AttemptResult:
        """Return a build's base image with its system packages, or the attempt's result if there is none."""
        packages = build.key.system_packages
        if not packages:
            return build.base
        digest = keys.system_digest(build.base.id, packages)
        tag = keys.system_tag(digest)

        async def make(tell: Tell) -> ImageFacts | leases_pb2.AttemptResult:
            refused = await self._install(replace(build, tell=tell), digest, tag)
            return refused or await self.images.made(tag)

        got = await self.images.get(Wanted(f"sha256:{digest}", tag, make), build.tell)
        return got.facts if isinstance(got, Ready) else got

    async def _install(self, build: Build, digest: str, tag: str) -> leases_pb2.AttemptResult | None:
        settings, packages = self.installations.settings, build.key.system_packages
        build.tell(f"installing system packages: {', '.join(packages)}")
        await build.log.write(f"towline: system packages: {', '.join(packages)}\n".encode())
        files = system_packages.install_files(packages, settings.mirrors)
        installation = Installation(files, settings.mirrors.urls, NOTHING, step="install system packages")
        async with self.installations.throw_away(self.installations.container(build.base.id)) as container:
            refused = await self.installations.run(container, installation, build.log, build.tell)
            if refused is not None:
                return refused
            config = recipe.base_config(build.base, build.labels(settings.builder, digest))
            with build.tell.step("keep the system packages"):
                await self.engine.commit(container, tag, config)
        return None
