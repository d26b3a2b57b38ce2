"""What a person submits: its form checked, before anything that it names is looked at."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from towline import names
from towline.errors import InvalidArgument
from towline.names import ArtifactVersionName, JobVersionName, QueueName
from towline.requests import dockerfiles
from towline.v1 import jobs_pb2, runs_pb2

__all__ = [
    "MAX_DISPLAY_NAME",
    "MAX_INPUTS",
    "MAX_RUNS",
    "NewRun",
    "Submission",
    "check",
    "check_display_name",
]

MAX_RUNS: Final = 1000
MAX_DISPLAY_NAME: Final = 128
MAX_INPUTS: Final = 64
_MAX_TEXT: Final = 256
_MAX_LABELS: Final = 64
_MAX_VARIABLES: Final = 64
_PRIORITIES: Final = frozenset(runs_pb2.Priority.values())


@dataclass(frozen=True)
class Submission:
    """What runs were submitted with, but for parameters and display name; what it names may still not exist.

    Attributes:
        job: The version asked for, by version or alias.
        queue: Where it is to wait.
        variables: JSON text by name, as given.
        priority: A towline.v1.Priority, never UNSPECIFIED.
        author: Who submits.
        labels: Free labels.
        not_before: When it may start; None: at once.
        limits: Time limits as given.
        retry_policy: Retries as given.
        inputs: Artifacts to read, by version or alias, in place of those of the job and besides them.
        build_only: Whether only the image is wanted; there are no inputs then.
        dockerfile: How to build the image, in place of what the job says; None: as it says.
    """

    job: JobVersionName
    queue: QueueName
    variables: Mapping[str, str]
    priority: "runs_pb2.Priority.ValueType"
    author: str
    labels: Mapping[str, str]
    not_before: datetime | None
    limits: runs_pb2.TimeLimits
    retry_policy: runs_pb2.RetryPolicy
    inputs: Mapping[str, ArtifactVersionName]
    build_only: bool = False
    dockerfile: jobs_pb2.DockerfileBuild | None = None


@dataclass(frozen=True)
class NewRun:
    """A run to be stored, whole.

    Attributes:
        spec: All that an agent needs.
        priority: A towline.v1.Priority.
        variables: JSON text by name, as given.
        labels: Free labels.
        due: When it may start, if that is not yet.
        retry_of: The run that it repeats; empty: none.
        queue_spec: The serialized QueueSpec whose template it filled.
    """

    spec: runs_pb2.LaunchSpec
    priority: "runs_pb2.Priority.ValueType"
    variables: Mapping[str, str]
    labels: Mapping[str, str]
    due: datetime | None
    retry_of: str
    queue_spec: bytes


def check(message: runs_pb2.RunSubmission, field: str) -> Submission:
    """Check the form of a submission, but for its parameters and display name.

    Args:
        message: What came.
        field: Its path in the request, such as "run" or "runs[3]".

    Raises:
        InvalidArgument: A field has no valid form; it names the field.
    """
    job = message.job
    if "/versions/" not in job:
        job = f"{names.job(job, f'{field}.job')}/versions/latest"
    if message.priority not in _PRIORITIES:
        raise InvalidArgument.field(f"{field}.priority", f"{message.priority} is no priority")
    if len(message.variables) > _MAX_VARIABLES:
        raise InvalidArgument.field(f"{field}.variables", f"at most {_MAX_VARIABLES} can be given")
    if len(message.labels) > _MAX_LABELS:
        raise InvalidArgument.field(f"{field}.labels", f"at most {_MAX_LABELS} can be given")
    for key, value in message.labels.items():
        _check_text(key, f"{field}.labels", _MAX_TEXT)
        _check_text(value, f"{field}.labels.{key}", _MAX_TEXT)
    if message.build_only and message.inputs:
        raise InvalidArgument.field(f"{field}.inputs", "a run that only builds reads nothing; leave them out")
    return Submission(
        job=names.job_version(job, f"{field}.job"),
        queue=names.queue(message.queue, f"{field}.queue"),
        variables=dict(message.variables),
        priority=message.priority or runs_pb2.PRIORITY_MEDIUM,
        author=_check_text(message.author, f"{field}.author", _MAX_TEXT),
        labels=dict(message.labels),
        not_before=_moment(message.not_before, f"{field}.not_before")
        if message.HasField("not_before")
        else None,
        limits=message.limits,
        retry_policy=message.retry_policy,
        inputs=_inputs(message.inputs, f"{field}.inputs") if message.inputs else {},
        build_only=message.build_only,
        dockerfile=_dockerfile(message.dockerfile, f"{field}.dockerfile")
        if message.HasField("dockerfile")
        else None,
    )


def check_display_name(text: str, field: str) -> None:
    """Check a display name, empty for none; InvalidArgument names its path below the submission's `field`."""
    _check_text(text, f"{field}.display_name", MAX_DISPLAY_NAME)


def _check_text(text: str, field: str, most: int) -> str:
    if len(text) > most:
        raise InvalidArgument.field(field, f"has {len(text)} characters; at most {most} can be kept")
    if not text.isprintable():
        raise InvalidArgument.field(field, "holds characters that cannot be printed; leave them out")
    return text


def _inputs(given: Mapping[str, str], field: str) -> dict[str, ArtifactVersionName]:
    if len(given) > MAX_INPUTS:
        raise InvalidArgument.field(field, f"at most {MAX_INPUTS} can be given")
    return {
        names.input_name(name, field): names.artifact_version(artifact, f"{field}[{name}]")
        for name, artifact in sorted(given.items())
    }


def _dockerfile(given: jobs_pb2.DockerfileBuild, field: str) -> jobs_pb2.DockerfileBuild:
    dockerfiles.check(given, field)
    return given


def _moment(time: Timestamp, field: str) -> datetime:
    try:
        return time.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise InvalidArgument.field(field, "is no moment between the years 1 and 9999") from None
