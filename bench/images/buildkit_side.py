"""BuildKit with a two-stage Dockerfile whose downloads stay in a cache mount, by Towline's own way to it."""

import io
import os
import subprocess
import tarfile
import time
from contextlib import aclosing
from pathlib import Path
from typing import Final
from uuid import uuid4

import uv

from bench.images import docker_side
from bench.images.subject import Subject
from towline_agent.engine.build_port import BuildOrder, Refused
from towline_agent.engine.docker import DockerEngine

__all__ = ["BuildKitSide"]

# As docker_side's, with uv's downloads in a cache mount that outlives the build.
_INSTALL: Final = "RUN /tools/uv pip install"
_CACHED_INSTALL: Final = "RUN --mount=type=cache,id={cache},target=/root/.cache/uv /tools/uv pip install"
DOCKERFILE: Final = docker_side.DOCKERFILE.replace(_INSTALL, _CACHED_INSTALL)


class BuildKitSide:
    """Builds by BuildKit; its cache of downloads is empty at first.

    Args:
        engine: It is in this one.
        folder: For the build's context.
    """

    def __init__(self, engine: DockerEngine, folder: Path) -> None:
        self._engine = engine
        self._context = folder / "context.tar"
        self._tag = f"towline-bench-buildkit:{uuid4().hex}"
        self._cache = uuid4().hex
        self._made: list[str] = []

    async def build(self, subject: Subject) -> float:
        """Build, and return the seconds it took.

        Raises:
            RuntimeError: It failed; the message is why.
        """
        self._context.write_bytes(self._archive(subject))
        order = BuildOrder(tag=self._tag, context=self._context, dockerfile="Dockerfile")
        began = time.perf_counter()
        async with aclosing(self._engine.builder(buildkit=True).build(order)) as events:
            async for event in events:
                if isinstance(event, Refused):
                    raise RuntimeError(f"BuildKit failed: {event.step}: {event.why}")
        seconds = time.perf_counter() - began
        if facts := await self._engine.image(self._tag):
            self._made.append(facts.id)
        return seconds

    def remove(self) -> None:
        """Remove the images that were made, and what BuildKit keeps of builds on this engine."""
        command = ["docker", "--host", self._engine.url]
        subprocess.run([*command, "rmi", "--force", *self._made], capture_output=True, check=False)
        subprocess.run([*command, "builder", "prune", "--force"], capture_output=True, check=False)

    def _archive(self, subject: Subject) -> bytes:
        bundle = Path(os.environ.get("SSL_CERT_FILE", "/etc/ssl/certs/ca-certificates.crt"))
        requirements = "".join(f"{one}\n" for one in subject.requirements)
        files = {
            "Dockerfile": DOCKERFILE.replace("{cache}", self._cache).encode(),
            "uv": Path(uv.find_uv_bin()).read_bytes(),
            "ca.pem": bundle.read_bytes(),
            "requirements.txt": requirements.encode(),
        }
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for name, content in files.items():
                member = tarfile.TarInfo(name)
                member.size, member.mode = len(content), 0o755
                archive.addfile(member, io.BytesIO(content))
            with tarfile.open(fileobj=io.BytesIO(subject.archive())) as source:
                for member in source:
                    content = source.extractfile(member)
                    member.name = f"src/{member.name}"
                    archive.addfile(member, content)
        return buffer.getvalue()
