"""Versions of jobs made from what people wrote."""

import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from towline.capture import capture_command
from towline.cli import yaml_files
from towline.cli.connection import connect
from towline.cli.submission import author
from towline.errors import InvalidArgument, Unavailable
from towline.v1 import jobs_pb2

__all__ = ["Given", "from_folder", "from_git", "from_image", "resolve"]

_COMMIT: Final = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_GIT_TIMEOUT_S: Final = 60


@dataclass(frozen=True)
class Given:
    """What people may say of any kind of job."""

    config: Path | None = None
    python: str = ""
    requirements: Path | None = None
    aliases: Sequence[str] = ()

    def put_into(self, spec: jobs_pb2.JobSpec) -> None:
        """Write it into the content of a version.

        Raises:
            InvalidArgument: A file cannot be read; the message names the option.
        """
        if self.config:
            spec.config_json = json.dumps(yaml_files.read_object(self.config, "--config"))
        if self.python:
            spec.python.version = self.python
        if self.requirements:
            del spec.python.requirements[:]
            spec.python.requirements.extend(_requirements(self.requirements))


def from_folder(
    command: Sequence[str], job: str, given: Given, parameters: Mapping[str, Any] | None = None
) -> jobs_pb2.CreateJobVersionResponse:
    """Make a version of a command as it would run in the current folder; warnings go to standard error.

    Args:
        command: As people type it, such as python train.py.
        job: Its name; empty: made from the script's.
        given: What goes over what was found.
        parameters: Defaults of the job, unless `given` has a file of them.
    """
    with capture_command(command, Path.cwd(), config_json=json.dumps(parameters or {})) as captured:
        for warning in captured.warnings:
            sys.stderr.write(f"{warning}\n")
        with connect() as client:
            spec = captured.spec(client.blobs.upload(captured.archive))
            given.put_into(spec)
            return client.jobs.create_version(
                job or captured.job, spec, author=author(), aliases=given.aliases
            )


def from_git(
    source: jobs_pb2.GitSource, command: Sequence[str], job: str, given: Given
) -> jobs_pb2.CreateJobVersionResponse:
    """Make a version of a commit."""
    return _make(job, jobs_pb2.JobSpec(git=source, entrypoint=command), given)


def from_image(
    reference: str, command: Sequence[str], job: str, given: Given
) -> jobs_pb2.CreateJobVersionResponse:
    """Make a version of an image."""
    image = jobs_pb2.ImageSource(reference=reference)
    return _make(job, jobs_pb2.JobSpec(image=image, entrypoint=command), given)


def _make(job: str, spec: jobs_pb2.JobSpec, given: Given) -> jobs_pb2.CreateJobVersionResponse:
    given.put_into(spec)
    with connect() as client:
        return client.jobs.create_version(job, spec, author=author(), aliases=given.aliases)


def resolve(remote: str, ref: str) -> str:
    """Give the commit that a ref of a remote repository stands for; a commit stands for itself.

    Raises:
        InvalidArgument: The repository has no such ref.
        Unavailable: The repository cannot be asked; reason GIT_FAILED.
    """
    if _COMMIT.fullmatch(ref):
        return ref
    try:
        done = subprocess.run(
            ["git", "ls-remote", "--", remote, ref, f"{ref}^{{}}"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_GIT_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"git ls-remote {remote}: {error}", reason="GIT_FAILED") from None
    if done.returncode:
        problem = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        raise Unavailable(f"git ls-remote {remote}: {problem}", reason="GIT_FAILED")
    lines = (line.partition("\t") for line in done.stdout.splitlines())
    found = {name: commit for commit, _, name in lines}
    # An annotated tag is listed twice; the line with ^{} is the commit it points at.
    for name in (f"refs/tags/{ref}^{{}}", f"refs/heads/{ref}", f"refs/tags/{ref}", ref):
        if name in found:
            return found[name]
    raise InvalidArgument.field("--commit", f"{remote} has no branch, tag or full commit {ref!r}")


def _requirements(file: Path) -> list[str]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidArgument.field(f"--requirements {file}", f"cannot be read ({error})") from None
    wanted = [line.partition(" #")[0].strip() for line in lines]
    options = [line for line in wanted if line.startswith("-")]
    if options:
        raise InvalidArgument.field(
            f"--requirements {file}",
            f"options of pip are not taken ({', '.join(options)}); list requirements only",
        )
    return [line for line in wanted if line and not line.startswith("#")]
