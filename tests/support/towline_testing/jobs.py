"""Jobs and submissions, made short."""

import io
import json
import tarfile
from typing import Any

from towline.client import Client
from towline.v1 import jobs_pb2, runs_pb2


def submission(job: str, queue: str = "default", **config: Any) -> runs_pb2.RunSubmission:
    """Submit `job`'s newest version with the given parameters in place of its defaults."""
    return runs_pb2.RunSubmission(
        job=f"jobs/{job}", queue=f"queues/{queue}", config_json=json.dumps(config), author="test"
    )


def code_job(
    client: Client,
    name: str,
    script: str,
    *,
    config: dict[str, Any] | None = None,
    requirements: tuple[str, ...] = (),
    command: tuple[str, ...] = ("python", "main.py"),
) -> str:
    """Make a job whose source tree is the one file main.py."""
    digest, size = upload_tar(client, {"main.py": script.encode()})
    spec = jobs_pb2.JobSpec(
        code=jobs_pb2.CodeSource(digest=digest, size_bytes=size),
        entrypoint=command,
        python=jobs_pb2.PythonEnvironment(version="3.11", requirements=requirements),
        config_json=json.dumps(config or {}),
    )
    client.jobs.create_version(name, spec)
    return name


def image_job(client: Client, name: str, reference: str, command: tuple[str, ...] = ()) -> str:
    """Make a job of an image made elsewhere."""
    spec = jobs_pb2.JobSpec(image=jobs_pb2.ImageSource(reference=reference), entrypoint=command)
    client.jobs.create_version(name, spec)
    return name


def upload_tar(client: Client, files: dict[str, bytes]) -> tuple[str, int]:
    """Upload a source archive; returns its digest and size."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path, data in sorted(files.items()):
            member = tarfile.TarInfo(path)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return client.blobs.upload(buffer.getvalue()), len(buffer.getvalue())
