"""Versions of jobs made from what people wrote."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import SplitResult, urlsplit

from towline.capture import capture_command
from towline.cli import yaml_files
from towline.cli.connection import connect
from towline.cli.submission import author
from towline.client import shorthand
from towline.errors import InvalidArgument, NotFound, Unavailable
from towline.v1 import jobs_pb2

if TYPE_CHECKING:
    from towline.client import Client

__all__ = ["Given", "from_folder", "from_git", "from_image", "resolve"]

_COMMIT: Final = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_GIT_TIMEOUT_S: Final = 60
_REMOTE_SCHEMES: Final = ("https", "ssh", "http", "git")
# git@host:path, as ssh takes it.
_SCP_LIKE: Final = re.compile(r"([^@/:\s]+@)?[A-Za-z0-9][^@/:\s]*:(?!//)[^@\s]+")
# How git and its transports say that nobody answers, and that who answers has no such repository for us.
_NOBODY: Final = re.compile(r"resolve host|look up|name or service", re.IGNORECASE)
_NO_REPOSITORY: Final = re.compile(
    r"not found|does not exist|not exported|does not appear|could not read (Username|Password)"
    r"|Authentication failed|Permission denied|error: 40[134]",
    re.IGNORECASE,
)

_OPEN_SCHEMA: Final = '{"type": "object"}'


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


def from_folder(command: Sequence[str], job: str, given: Given) -> jobs_pb2.CreateJobVersionResponse:
    """Make a version of a command as it would run in the current folder; warnings go to standard error.

    A command that does not run does not tell its parameters. Unless `given` has a file of them, they and
    their schema are those of the job's newest version; a job that is new takes any.

    Args:
        command: As people type it, such as python train.py.
        job: Its name; empty: made from the script's.
        given: What goes over what was found.
    """
    with capture_command(command, Path.cwd()) as captured:
        for warning in captured.warnings:
            sys.stderr.write(f"{warning}\n")
        with connect() as client:
            name = shorthand.job(job or captured.job)
            parameters = jobs_pb2.JobSpec() if given.config else _parameters_of(client, name)
            spec = captured.spec(client.blobs.upload(captured.archive))
            spec.MergeFrom(parameters)
            given.put_into(spec)
            return client.jobs.create_version(name, spec, author=author(), aliases=given.aliases)


def _parameters_of(client: "Client", job: str) -> jobs_pb2.JobSpec:
    """Give the parameters of a job's newest version and their schema, and nothing else."""
    try:
        newest = client.jobs.get(job).spec
    except NotFound:
        return jobs_pb2.JobSpec(config_json="{}", input_schema_json=_OPEN_SCHEMA)
    return jobs_pb2.JobSpec(config_json=newest.config_json, input_schema_json=newest.input_schema_json)


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
        InvalidArgument: The remote is no URL that agents take, or the repository has no such ref.
        NotFound: There is no such repository, or git may not read it; reason GIT_REPOSITORY_NOT_FOUND.
        Unavailable: The repository cannot be asked; reason GIT_FAILED.
    """
    _check_remote(remote)
    if _COMMIT.fullmatch(ref):
        return ref
    try:
        done = subprocess.run(
            ["git", "ls-remote", "--", remote, ref, f"{ref}^{{}}"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_GIT_TIMEOUT_S,
            env=os.environ | {"LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0"},
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise Unavailable(
            f"git ls-remote {remote}: no answer within {_GIT_TIMEOUT_S} s", reason="GIT_FAILED"
        ) from None
    except OSError as error:
        raise Unavailable(f"git ls-remote {remote}: {error}", reason="GIT_FAILED") from None
    if done.returncode:
        # The person's configuration may put credentials into URLs (url.….insteadOf).
        said = re.sub(r"//[^/@\s]+@", "//", " ".join(done.stderr.split()))
        problem = said or f"exit code {done.returncode}"
        if _NO_REPOSITORY.search(said) and not _NOBODY.search(said):
            raise NotFound(
                f"there is no repository {remote}, or git may not read it: {problem}",
                reason="GIT_REPOSITORY_NOT_FOUND",
            )
        raise Unavailable(f"git ls-remote {remote}: {problem}", reason="GIT_FAILED")
    lines = (line.partition("\t") for line in done.stdout.splitlines())
    found = {name: commit for commit, _, name in lines}
    # An annotated tag is listed twice; the line with ^{} is the commit it points at.
    for name in (f"refs/tags/{ref}^{{}}", f"refs/heads/{ref}", f"refs/tags/{ref}", ref):
        if name in found:
            return found[name]
    raise InvalidArgument.field("--commit", f"{remote} has no branch, tag or full commit {ref!r}")


def _check_remote(remote: str) -> None:
    """Refuse what agents cannot fetch and what holds a secret; no message repeats it."""
    if _SCP_LIKE.fullmatch(remote) and not remote.startswith("-") and "::" not in remote:
        return
    try:
        parts = urlsplit(remote)
        _ = parts.port  # raises where it is no number, which is where a token may stand
    except ValueError:
        parts = SplitResult("", "", "", "", "")
    if parts.scheme not in _REMOTE_SCHEMES or not parts.hostname or any(map(str.isspace, remote)):
        schemes = ", ".join(f"{scheme}://" for scheme in _REMOTE_SCHEMES)
        raise InvalidArgument.field(
            "URL", f"this is no URL that agents fetch from; write one of {schemes} or user@host:path"
        )
    if parts.password is not None or (parts.username is not None and parts.scheme != "ssh"):
        raise InvalidArgument.field(
            "URL",
            "user names and passwords in URLs are refused; give the URL without them, agents have their own",
        )


def _requirements(file: Path) -> list[str]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InvalidArgument.field(f"--requirements {file}", f"cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InvalidArgument.field(f"--requirements {file}", "cannot be read: it is no UTF-8 text") from None
    wanted = [line.partition(" #")[0].strip() for line in lines]
    options = [line for line in wanted if line.startswith("-")]
    if options:
        raise InvalidArgument.field(
            f"--requirements {file}",
            f"options of pip are not taken ({', '.join(options)}); list requirements only",
        )
    return [line for line in wanted if line and not line.startswith("#")]
