"""Versions of jobs whose source is elsewhere: a commit of a repository, or an image."""

import sys
from collections.abc import Sequence
from pathlib import Path

from towline.capture import images, remotes
from towline.cli.connection import connect
from towline.cli.recording import Given, create
from towline.requests.images import parse
from towline.v1 import jobs_pb2

__all__ = ["from_git", "from_image"]


def from_git(
    source: jobs_pb2.GitSource,
    patch: Path | None,
    dockerfile: jobs_pb2.DockerfileBuild | None,
    command: Sequence[str],
    job: str,
    given: Given,
) -> jobs_pb2.CreateJobVersionResponse:
    """Make a version of a commit.

    Args:
        source: Its commit may be any ref; it is resolved now.
        patch: What goes over the commit.
        dockerfile: How the image is built, if with a Dockerfile.
        command: As people type it, such as python train.py.
        job: Its name.
        given: What else people said.

    Raises:
        InvalidArgument: See `remotes.resolve`, `check_patch` and `check_fit`; or a file cannot be read.
        NotFound: See `remotes.resolve`.
        Unavailable: See there.
    """
    spec = jobs_pb2.JobSpec(git=source, dockerfile=dockerfile, entrypoint=command)
    given.put_into(spec)
    if patch:
        remotes.check_patch(patch)
    spec.git.commit = remotes.resolve(source.remote, source.commit)
    if patch:
        remotes.check_fit(patch, source.remote, spec.git.commit)
    with connect() as client:
        if patch:
            spec.git.patch_digest = client.blobs.upload(patch)
        return create(client, job, spec, given)


def from_image(
    reference: str, command: Sequence[str], job: str, given: Given, *, resolve: bool
) -> jobs_pb2.CreateJobVersionResponse:
    """Make a version of an image; why its digest cannot be found goes to standard error.

    Args:
        reference: As `docker pull` takes it.
        command: In place of the image's own; empty: that.
        job: Its name.
        given: What else people said.
        resolve: Whether to find the digest that a tag has now.

    Raises:
        InvalidArgument: It is no reference, or a file cannot be read.
    """
    parse(reference)
    spec = jobs_pb2.JobSpec(image=jobs_pb2.ImageSource(reference=reference), entrypoint=command)
    given.put_into(spec)
    if resolve:
        found = images.resolve(reference)
        if found.note:
            sys.stderr.write(f"{found.note}\n")
        spec.image.reference, spec.image.requested = found.reference, found.requested
    with connect() as client:
        return create(client, job, spec, given)
