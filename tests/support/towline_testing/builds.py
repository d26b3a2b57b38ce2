"""Images as tests have them built: on the machine's engine, from a registry, by a builder of a test's own."""

import asyncio
import io
import os
import ssl
import subprocess
import tarfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

from towline.names import AgentName
from towline.v1 import jobs_pb2, leases_pb2
from towline_agent.builder import BuildSettings, DockerImages, Ready
from towline_agent.core.recipe import LABEL_BUILDER, Indexes
from towline_agent.engine.docker import DockerEngine, connecting
from towline_agent.image_records import ImageRecords
from towline_agent.packages import Packages
from towline_agent.registry import Registry as RegistryClient
from towline_agent.sharing import SharedImages
from towline_agent.sources import Sources
from towline_agent.telling import Tell
from towline_testing.agent import launch_spec
from towline_testing.engine import base_image, containers, docker, remove_images
from towline_testing.postgres import PostgresServer
from towline_testing.registry import Registry, digest_of, registry_service, registry_settings
from towline_testing.waiting import eventually


class Log:
    """A build log that is kept."""

    def __init__(self) -> None:
        self.data = b""

    async def write(self, data: bytes) -> None:
        self.data += data


class Builds:
    """A builder with settings of a test's own; what it makes is removed at the end."""

    def __init__(
        self, engine: DockerEngine, registry: Registry, work: Path, background: asyncio.TaskGroup
    ) -> None:
        work.mkdir()
        self.engine, self.registry, self.work = engine, registry, work
        self.background = background
        self.name = uuid4().hex
        self.log = Log()
        self.told: list[str] = []
        self.tells: list[Tell] = []
        """One for each build, oldest first."""
        self.made: list[str] = []
        self.indexes = Indexes()
        self.repository = ""
        """Where its fleet shares images; empty: it is alone."""
        self.base_images = ("towline/python:{version}", "python:{version}-slim")
        self.images = self.builder()

    def builder(self, **changes: object) -> DockerImages:
        """Make a builder with settings of this object, and with changes of BuildSettings."""
        bundle = os.environ.get("SSL_CERT_FILE")
        settings = BuildSettings(
            builder=self.name,
            starts=2,
            base_images=self.base_images,
            indexes=self.indexes,
            ca_bundle=Path(bundle) if bundle else None,
            cache_volume="towline-uv-cache",
        )
        settings = replace(settings, **changes)  # type: ignore[arg-type]  # tests give what fits
        client = RegistryClient(self.registry.channel, "the registry")
        sources, packages = Sources(client, self.work, ("file",)), Packages(client, self.work, ("file",))
        shared = None
        if self.repository:
            agent = AgentName(f"agents/{self.name}")
            records = ImageRecords(self.registry.channel, "the registry", self.repository, agent)
            shared = SharedImages(self.engine, records, self.background)
        return DockerImages(self.engine, sources, packages, settings, shared)

    async def source(self, **files: str) -> tuple[str, int]:
        """Store a source tree; `train__main_py` is train/main.py. Returns its digest and its size."""
        return await self.tree(
            {name.replace("__", "/").replace("_py", ".py"): text for name, text in files.items()}
        )

    async def tree(self, files: dict[str, str]) -> tuple[str, int]:
        """Store a source tree and return its digest and its size."""
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for name, text in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(text)
                archive.addfile(member, io.BytesIO(text.encode()))
        await self.registry.upload(buffer.getvalue())
        return digest_of(buffer.getvalue()), len(buffer.getvalue())

    async def __call__(self, job: jobs_pb2.JobSpec, **options: object) -> Ready | leases_pb2.AttemptResult:
        self.tells.append(Tell(self.told.append))
        got = await self.images.ensure(launch_spec(job, **options), self.log, self.tells[-1])
        if isinstance(got, Ready):
            self.made.append(got.facts.id)
        return got

    async def container(self) -> list[str]:
        return containers(towline_builder=f"{self.name}:2")

    def left_over(self) -> list[str]:
        return [*containers(towline_builder=f"{self.name}:2"), *self.work.iterdir()]


@asynccontextmanager
async def building(postgres: PostgresServer, folder: Path) -> AsyncIterator[Builds]:
    """Give a builder beside a registry of its own; what it makes is removed, what it leaves is an error."""
    base_image()
    before = dangling()
    name = f"agent_{uuid4().hex}"
    postgres.psql(f"CREATE DATABASE {name}")
    async with (
        registry_service(registry_settings(postgres.url(name), folder)) as registry,
        connecting(None) as engine,
    ):
        async with asyncio.TaskGroup() as background:
            made = Builds(engine, registry, folder / "work", background)
            yield made
        assert not made.left_over()
        # A build beside this one has an image without a name for a moment.
        eventually(lambda: not dangling() - before, every=0.5)
        for image in dict.fromkeys(reversed(made.made)):
            docker("rmi", "--force", image)
        remove_images(made.name)


def dangling() -> set[str]:
    """Images of builds that nothing names; other sessions on this engine may have left some."""
    built = f"--filter=label={LABEL_BUILDER}"
    return set(docker("images", "--quiet", "--filter=dangling=true", built).split())


def unique() -> str:
    """A program like no other, so that its image is not there yet."""
    return f"print('{uuid4().hex}')\n"


def always() -> str:
    """A marker that always holds and is like no other, so that an environment is not there yet."""
    return f'platform_version != "{uuid4().hex}"'


def exported(image: str) -> bytes:
    """All of an image: its layers and its configuration, as one archive."""
    return subprocess.run(["docker", "save", image], capture_output=True, check=True).stdout


def authorities(more: Path) -> Path:
    """Write, beside a file of authorities, one that has those of this machine as well."""
    own = os.environ.get("SSL_CERT_FILE") or ssl.get_default_verify_paths().cafile
    both = more.with_suffix(".bundle.pem")
    both.write_bytes((Path(own).read_bytes() if own else b"") + more.read_bytes())
    return both


def run_in(image: str, *command: str) -> str:
    return docker("run", "--rm", image, *command)
