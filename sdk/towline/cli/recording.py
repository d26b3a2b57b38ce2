"""Versions of jobs made from what people wrote."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from towline.capture import capture_command, config_files, results
from towline.capture.dockerfiles import DockerfileWish
from towline.capture.locks import LockFile
from towline.cli import yaml_files
from towline.cli.connection import connect
from towline.cli.submission import author
from towline.cli.values import pairs
from towline.client import shorthand
from towline.errors import InvalidArgument, NotFound
from towline.requests.system import checked
from towline.v1 import jobs_pb2

if TYPE_CHECKING:
    from towline.capture.source import Snapshot
    from towline.client import Client

__all__ = ["Given", "create", "from_folder"]

_OPEN_SCHEMA: Final = '{"type": "object"}'


@dataclass(frozen=True)
class Given:
    """What people may say of any kind of job."""

    config: Path | None = None
    python: str = ""
    requirements: Path | None = None
    aliases: Sequence[str] = ()
    schema: Path | None = None
    """JSON Schema of the parameters."""
    config_files: Sequence[str] = ()
    """Files whose content is a parameter, "key=path" each."""
    lock: Path | None = None
    """The project's own lock, in place of what is installed."""
    extras: Sequence[str] = ()
    """Extras and groups of the lock."""
    dockerfile: Path | None = None
    """What the image is built with; None: the project's Dockerfile.towline, if it has one."""
    build_args: Sequence[str] = ()
    """Build arguments, "NAME=value" each."""
    target: str = ""
    """Stage of the Dockerfile."""
    system_packages: Sequence[str] = ()
    """Debian packages that containers need."""
    platform: str = ""
    """Of the image, such as "linux/arm64"; "any": whatever an agent has. Empty: as it was found."""

    @property
    def lock_file(self) -> LockFile | None:
        """The lock, as recording takes it; InvalidArgument where it cannot be one."""
        if self.lock is None:
            if self.extras:
                raise InvalidArgument.field("--extra", "goes with the --lock whose extra it is")
            return None
        if self.requirements:
            raise InvalidArgument.field("--lock", "goes in place of --requirements; leave one of them out")
        return LockFile(self.lock.absolute(), tuple(self.extras))

    @property
    def dockerfile_wish(self) -> DockerfileWish:
        """The Dockerfile, as recording takes it; InvalidArgument where an argument is none."""
        file = self.dockerfile.absolute() if self.dockerfile else None
        return DockerfileWish(file, pairs(self.build_args, "--build-arg"), self.target)

    def put_into(self, spec: jobs_pb2.JobSpec) -> None:
        """Write it into the content of a version.

        Raises:
            InvalidArgument: A file cannot be read; the message names the option.
        """
        if self.config:
            spec.config_json = json.dumps(yaml_files.read_object(self.config, "--config"))
        if self.schema:
            spec.input_schema_json = json.dumps(yaml_files.read_object(self.schema, "--schema"))
        if self.python:
            spec.python.version = self.python
        if self.system_packages:
            added = (*spec.python.system_packages, *self.system_packages)
            spec.python.system_packages[:] = checked(added, "--system-package")
        if self.platform:
            spec.platform = "" if self.platform == "any" else self.platform
        if self.requirements:
            for recorded in ("requirements", "wheels", "complete"):
                spec.python.ClearField(recorded)
            spec.python.requirements.extend(_requirements(self.requirements))


def from_folder(command: Sequence[str], job: str, given: Given) -> jobs_pb2.CreateJobVersionResponse:
    """Make a version of a command as it would run in the current folder; warnings go to standard error.

    A command that does not run tells neither its parameters nor what it reads. Unless `given` has a file of
    them, the parameters and their schema are those of the job's newest version, as are the inputs; a job that
    is new takes any.

    Args:
        command: As people type it, such as python train.py.
        job: Its name; empty: made from the script's.
        given: What goes over what was found.
    """
    wish = given.dockerfile_wish  # what is wrong with it is told before anything is recorded
    with capture_command(command, Path.cwd(), lock=given.lock_file) as found:
        captured = found.built_with(wish)
        for warning in captured.warnings:
            sys.stderr.write(f"{warning}\n")
        with connect() as client:
            name = shorthand.job(job or captured.job)
            known = _known_of(client, name, given, captured.snapshot)
            for wheel in captured.wheels:
                client.blobs.upload(wheel)
            spec = captured.spec(client.blobs.upload(captured.archive))
            spec.MergeFrom(known)
            given.put_into(spec)
            if given.config_files:
                _put_config_files(spec, captured.snapshot, given)
            return create(client, name, spec, given)


def _known_of(client: "Client", job: str, given: Given, snapshot: "Snapshot") -> jobs_pb2.JobSpec:
    """Give what a job's newest version tells of parameters and inputs, and nothing else."""
    try:
        newest = client.jobs.get(job).spec
    except NotFound:
        open_to_all = jobs_pb2.JobSpec(config_json="{}", input_schema_json=_OPEN_SCHEMA)
        return jobs_pb2.JobSpec() if given.config else open_to_all
    known = jobs_pb2.JobSpec(inputs=newest.inputs)
    if not given.config:
        known.config_json, known.input_schema_json = newest.config_json, newest.input_schema_json
        known.config_files.extend(
            file for file in newest.config_files if file.path in snapshot.paths and not given.config_files
        )
    return known


def _put_config_files(spec: jobs_pb2.JobSpec, snapshot: "Snapshot", given: Given) -> None:
    """Make the content of files parameters; InvalidArgument if one cannot be."""
    named = pairs(given.config_files, "--config-file")
    files = {key: str(Path.cwd() / path) for key, path in named.items()}
    config = json.loads(spec.config_json or "{}")
    # Those of an earlier version are read again.
    found = config_files.read(
        files, snapshot, {key: value for key, value in config.items() if key not in files}
    )
    if found.problems:
        raise InvalidArgument.field("--config-file", "; ".join(found.problems))
    spec.config_json = json.dumps(config | found.contents)
    spec.config_files.extend(
        jobs_pb2.ConfigFile(path=path, key=key) for key, path in sorted(found.paths.items())
    )
    if spec.input_schema_json and not given.schema:  # the newest version's may not know them
        schema = results.covering(json.loads(spec.input_schema_json), found.contents)
        spec.input_schema_json = json.dumps(schema)


def create(
    client: "Client", job: str, spec: jobs_pb2.JobSpec, given: Given
) -> jobs_pb2.CreateJobVersionResponse:
    """Add a version to a job, in the name of whoever types, with the aliases that were given.

    Raises:
        TowlineError: What the registry answered; fields that options fill are named as these.
    """
    try:
        return client.jobs.create_version(job, spec, author=author(), aliases=given.aliases)
    except InvalidArgument as error:
        options = {}
        if given.schema:
            options["spec.input_schema_json"] = f"--schema {given.schema}"
        if given.platform:
            options["spec.platform"] = f"--platform {given.platform}"
        if given.config:
            options["spec.config_json"] = f"--config {given.config}"
        raise _told(error, options) from None


def _told(error: InvalidArgument, options: Mapping[str, str]) -> InvalidArgument:
    """Say of options what an error says of the fields that they fill."""

    def told(text: str) -> str:
        for field, option in options.items():
            text = text.replace(f"{field}.", f"{option}: ").replace(field, option)
        return text

    metadata = {told(key): told(value) for key, value in error.metadata.items()}
    return InvalidArgument(told(error.message), reason=error.reason, metadata=metadata)


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
