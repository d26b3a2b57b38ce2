"""An agent's builder, with a real registry service for the sources."""

import hashlib
import os
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import grpc

from bench.images.subject import BASE, PYTHON, Subject
from towline.v1 import artifacts_pb2, artifacts_pb2_grpc, jobs_pb2, runs_pb2
from towline_agent.builder import BuildSettings, DockerImages, Ready
from towline_agent.core.ownership import LABEL_MADE_BY
from towline_agent.core.recipe import Indexes
from towline_agent.engine.docker import DockerEngine
from towline_agent.packages import Packages
from towline_agent.registry import Registry
from towline_agent.sharing import SharedImages
from towline_agent.sources import Sources
from towline_agent.telling import Tell

__all__ = ["TowlineSide", "opened"]


class _NoLog:
    async def write(self, data: bytes) -> None:
        """Drop it."""


class TowlineSide:
    """Builds by an agent's own code, without its queue.

    Args:
        engine: Where images are made.
        channel: To the registry service.
        images: The agent's builder.
        builder: What marks the images that it makes.
    """

    def __init__(
        self, engine: DockerEngine, channel: grpc.aio.Channel, images: DockerImages, builder: str
    ) -> None:
        self._engine = engine
        self._blobs = artifacts_pb2_grpc.BlobServiceStub(channel)
        self._images = images
        self._builder = builder
        # Of another job's environments none is made, so what an earlier round has left helps nobody.
        self._job = f"jobs/bench-images-{builder}"

    async def build(self, subject: Subject) -> tuple[float, runs_pb2.ImageOutcome.ValueType]:
        """Get the image of a subject; return the seconds that took, and how it was got.

        Raises:
            RuntimeError: It cannot be built.
        """
        spec = await self._spec(subject)
        began = time.perf_counter()
        got = await self._images.ensure(spec, _NoLog(), Tell(lambda _: None))
        seconds = time.perf_counter() - began
        if not isinstance(got, Ready):
            raise RuntimeError(f"not built: {got.failure.message}\n{got.failure.log_tail}")
        return seconds, got.outcome

    def remove(self) -> None:
        """Remove the images that were made, environments too."""
        docker = ["docker", "--host", self._engine.url]
        label = f"label={LABEL_MADE_BY}={self._builder}"
        listing = [*docker, "images", "--quiet", "--filter", label]
        made = subprocess.run(listing, capture_output=True, text=True, check=False).stdout.split()
        if made:  # newest first, so that nothing is left that was made from one that goes
            subprocess.run(
                [*docker, "rmi", "--force", *dict.fromkeys(made)], capture_output=True, check=False
            )

    async def _spec(self, subject: Subject) -> runs_pb2.LaunchSpec:
        data = subject.archive()
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        header = artifacts_pb2.UploadHeader(upload_id=str(uuid4()), digest=digest, size_bytes=len(data))
        await self._blobs.UploadBlob([artifacts_pb2.UploadBlobRequest(header=header, data=data)])
        job = jobs_pb2.JobSpec(
            code=jobs_pb2.CodeSource(digest=digest, size_bytes=len(data)),
            entrypoint=["python", "main.py"],
            python=jobs_pb2.PythonEnvironment(
                version=PYTHON, requirements=subject.requirements, complete=True
            ),
        )
        return runs_pb2.LaunchSpec(run=f"runs/{uuid4().hex}", job_version=f"{self._job}/versions/v0", job=job)


@asynccontextmanager
async def opened(
    engine: DockerEngine,
    channel: grpc.aio.Channel,
    folder: Path,
    shared: SharedImages | None = None,
    network: str = "",
) -> AsyncIterator[TowlineSide]:
    """Give a builder that has never built anything: its cache of downloads is empty, and gone afterwards.

    Args:
        engine: Where it builds.
        channel: To the registry service.
        folder: For its temporary files.
        shared: Where its fleet keeps images.
        network: Docker network of its builds; empty: the engine's bridge.
    """
    cache = f"towline-bench-cache-{uuid4().hex}"
    bundle = os.environ.get("SSL_CERT_FILE")
    settings = BuildSettings(
        builder=uuid4().hex,
        starts=1,
        base_images=(BASE,),
        indexes=Indexes(),
        ca_bundle=Path(bundle) if bundle else None,
        cache_volume=cache,
        network=network,
    )
    registry = Registry(channel, "the registry")
    images = DockerImages(
        engine, Sources(registry, folder, ()), Packages(registry, folder, ()), settings, shared
    )
    side = TowlineSide(engine, channel, images, settings.builder)
    try:
        yield side
    finally:
        side.remove()
        await engine.remove_volume(cache)
