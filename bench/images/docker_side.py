"""`docker build` of a plain two-stage Dockerfile: a venv with the dependencies, then it and the source."""

import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Final
from uuid import uuid4

import uv

from bench.images.subject import BASE, Subject

__all__ = ["DockerSide"]

# uv's own binary is copied in, so that neither side pays for installing it.
DOCKERFILE: Final = f"""\
FROM {BASE} AS build
COPY uv ca.pem /tools/
ENV SSL_CERT_FILE=/tools/ca.pem UV_LINK_MODE=copy
RUN /tools/uv venv --python python3 /env
COPY requirements.txt /tools/
RUN /tools/uv pip install --python /env --requirements /tools/requirements.txt
FROM {BASE}
COPY --from=build /env /env
ENV PATH=/env/bin:/usr/local/bin:/usr/bin:/bin
WORKDIR /workspace
COPY --chown=1000:1000 src/ /workspace/
USER 1000:1000
ENTRYPOINT ["python", "main.py"]
"""


class DockerSide:
    """The classic builder, which every engine has, through Docker's client.

    Args:
        folder: For the build's context.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._tag = f"towline-bench-docker:{uuid4().hex}"
        self._made: list[str] = []
        (folder / "Dockerfile").write_text(DOCKERFILE)
        shutil.copy2(uv.find_uv_bin(), folder / "uv")
        bundle = os.environ.get("SSL_CERT_FILE", "/etc/ssl/certs/ca-certificates.crt")
        shutil.copyfile(bundle, folder / "ca.pem")
        (folder / "src").mkdir()

    def build(self, subject: Subject, *, cached: bool) -> float:
        """Build, and return the seconds it took.

        Raises:
            RuntimeError: It failed; the message is what it printed.
        """
        (self._folder / "requirements.txt").write_text("".join(f"{one}\n" for one in subject.requirements))
        subject.write_source(self._folder / "src")
        began = time.perf_counter()
        done = subprocess.run(
            ["docker", "build", "--quiet", "--tag", self._tag, *([] if cached else ["--no-cache"]), "."],
            cwd=self._folder,
            env=os.environ | {"DOCKER_BUILDKIT": "0"},
            capture_output=True,
            text=True,
            check=False,
        )
        seconds = time.perf_counter() - began
        if done.returncode:
            raise RuntimeError(f"docker build failed:\n{done.stdout}{done.stderr}")
        self._made.append(done.stdout.strip().splitlines()[-1])
        return seconds

    def remove(self) -> None:
        """Remove the images that were made, the builder's own layers of earlier stages too."""
        subprocess.run(["docker", "rmi", "--force", *self._made], capture_output=True, check=False)
        subprocess.run(["docker", "image", "prune", "--force"], capture_output=True, check=False)
