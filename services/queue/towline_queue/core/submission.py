"""What a person submits, and the run it becomes."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from towline import names
from towline.errors import InvalidArgument
from towline.names import JobVersionName, QueueName, RunName
from towline.v1 import docker_pb2, jobs_pb2, queues_pb2, runs_pb2
from towline_queue.core import limits, retries
from towline_queue.core.lease_policy import LeasePolicy, policy_of
from towline_queue.core.parameters import Parameters
from towline_queue.core.template import template_of
from towline_queue.core.transitions import State

__all__ = ["MAX_RUNS", "Made", "NewRun", "Submission", "check", "make_run", "repeat_run"]

MAX_RUNS: Final = 1000
_MAX_DISPLAY_NAME: Final = 128
_MAX_TEXT: Final = 256
_MAX_LABELS: Final = 64
_MAX_VARIABLES: Final = 64


@dataclass(frozen=True)
class Submission:
    """A submission whose form is right; what it names may still not exist.

    Attributes:
        job: The version asked for, by version or alias.
        queue: Where it is to wait.
        config_json: Overrides as given.
        variables: JSON text by name, as given.
        priority: A towline.v1.Priority, never UNSPECIFIED.
        display_name: Empty: to be made from the job's name.
        author: Who submits.
        labels: Free labels.
        not_before: When it may start; None: at once.
        limits: Time limits as given.
        retry_policy: Retries as given.
    """

    job: JobVersionName
    queue: QueueName
    config_json: str
    variables: Mapping[str, str]
    priority: "runs_pb2.Priority.ValueType"
    display_name: str
    author: str
    labels: Mapping[str, str]
    not_before: datetime | None
    limits: runs_pb2.TimeLimits
    retry_policy: runs_pb2.RetryPolicy


@dataclass(frozen=True)
class Made:
    """What a run gets at the moment it is made.

    Attributes:
        name: Its name.
        time: Now.
        queue_spec: The serialized QueueSpec whose template it fills.
    """

    name: RunName
    time: datetime
    queue_spec: bytes


@dataclass(frozen=True)
class NewRun:
    """A run to be stored.

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

    @property
    def state(self) -> State:
        """Where it begins."""
        return State.QUEUED if self.due is None else State.SCHEDULED


def check(message: runs_pb2.RunSubmission, field: str) -> Submission:
    """Check the form of a submission.

    Args:
        message: What came.
        field: Its path in the request, such as "run" or "runs[3]".

    Raises:
        InvalidArgument: A field has no valid form; it names the field.
    """
    job = message.job
    if "/versions/" not in job:
        job = f"{names.job(job, f'{field}.job')}/versions/latest"
    if message.priority not in runs_pb2.Priority.values():
        raise InvalidArgument.field(f"{field}.priority", f"{message.priority} is no priority")
    if len(message.variables) > _MAX_VARIABLES:
        raise InvalidArgument.field(f"{field}.variables", f"at most {_MAX_VARIABLES} can be given")
    if len(message.labels) > _MAX_LABELS:
        raise InvalidArgument.field(f"{field}.labels", f"at most {_MAX_LABELS} can be given")
    for key, value in message.labels.items():
        _check_text(key, f"{field}.labels", _MAX_TEXT)
        _check_text(value, f"{field}.labels.{key}", _MAX_TEXT)
    return Submission(
        job=names.job_version(job, f"{field}.job"),
        queue=names.queue(message.queue, f"{field}.queue"),
        config_json=message.config_json,
        variables=dict(message.variables),
        priority=message.priority or runs_pb2.PRIORITY_MEDIUM,
        display_name=_check_text(message.display_name, f"{field}.display_name", _MAX_DISPLAY_NAME),
        author=_check_text(message.author, f"{field}.author", _MAX_TEXT),
        labels=dict(message.labels),
        not_before=_moment(message.not_before, f"{field}.not_before")
        if message.HasField("not_before")
        else None,
        limits=message.limits,
        retry_policy=message.retry_policy,
    )


def make_run(submission: Submission, version: jobs_pb2.JobVersion, made: Made, prefix: str = "") -> NewRun:
    """Make the run of a submission.

    Args:
        submission: What was asked for.
        version: The job version it names.
        made: The run's name and the rest that comes from outside.
        prefix: Put before each path in an error, such as "runs[3].".

    Raises:
        InvalidArgument: Parameters (INVALID_CONFIG), template variables (INVALID_VARIABLE), time limits
            or retries (INVALID_FIELD) are wrong.
    """
    queue = _queue_terms(made.queue_spec)
    path = prefix or "run."
    spec = runs_pb2.LaunchSpec(
        run=made.name,
        display_name=submission.display_name or _display_name(version.name, made.name),
        job_version=version.name,
        queue=submission.queue,
        job=version.spec,
        config_json=_parameters(version.spec, prefix).resolve(submission.config_json, prefix),
        author=submission.author,
        limits=limits.limits_of(submission.limits, queue.limits, f"{path}limits"),
        retry_policy=_retry_policy(submission.retry_policy, queue, f"{path}retry_policy"),
    )
    _fill_resource(spec, made.queue_spec, submission.variables, prefix)
    due = submission.not_before if submission.not_before and submission.not_before > made.time else None
    return NewRun(
        spec=spec,
        priority=submission.priority,
        variables=submission.variables,
        labels=submission.labels,
        due=due,
        retry_of="",
        queue_spec=made.queue_spec,
    )


def repeat_run(ended: NewRun, made: Made) -> NewRun:
    """Make a run with the content of one that has ended: its job, parameters, variables, template and limits.

    Args:
        ended: The run to repeat, as it was stored.
        made: The new run's name and time; its queue spec is the one `ended` was made with.
    """
    spec = runs_pb2.LaunchSpec()
    spec.CopyFrom(ended.spec)
    spec.run = made.name
    # Whole also where it was made before runs had one.
    spec.retry_policy.CopyFrom(retries.policy_of(spec.retry_policy, runs_pb2.RetryPolicy()))
    # Filled again, for macros such as ${run_id} stand for the new run now.
    _fill_resource(spec, made.queue_spec, ended.variables, "")
    return NewRun(
        spec=spec,
        priority=ended.priority,
        variables=ended.variables,
        labels=ended.labels,
        due=None,
        retry_of=ended.spec.run,
        queue_spec=made.queue_spec,
    )


def _fill_resource(
    spec: runs_pb2.LaunchSpec, queue_spec: bytes, variables: Mapping[str, str], prefix: str
) -> None:
    macros = {
        "run_id": spec.run.partition("/")[2],
        "run_name": spec.display_name,
        "job": names.short(spec.job_version),
        "queue": names.short(spec.queue),
        "author": spec.author,
    }
    options: docker_pb2.DockerOptions = template_of(queue_spec).resolve(
        variables, spec.job.hints, macros, prefix
    )
    spec.docker.CopyFrom(options)
    policy = _queue_terms(queue_spec).lease_policy
    spec.stop_grace.FromTimedelta(policy.stop_grace)
    spec.stop_signal = policy.stop_signal


@dataclass(frozen=True)
class _QueueTerms:
    """What a queue says about its runs besides the template; checked when the queue was made."""

    lease_policy: LeasePolicy
    limits: runs_pb2.TimeLimits
    retry_policy: runs_pb2.RetryPolicy
    whole_retry_policy: runs_pb2.RetryPolicy


@lru_cache(maxsize=256)
def _queue_terms(queue_spec: bytes) -> _QueueTerms:
    """Read a serialized QueueSpec once per content: a thousand submissions come to one queue."""
    spec = queues_pb2.QueueSpec.FromString(queue_spec)
    return _QueueTerms(
        lease_policy=policy_of(spec.lease_policy),
        limits=spec.limits,
        retry_policy=spec.retry_policy,
        whole_retry_policy=retries.policy_of(runs_pb2.RetryPolicy(), spec.retry_policy),
    )


def _retry_policy(given: runs_pb2.RetryPolicy, queue: _QueueTerms, field: str) -> runs_pb2.RetryPolicy:
    if not given.ByteSize():
        return queue.whole_retry_policy
    return retries.policy_of(given, queue.retry_policy, field)


def _parameters(job: jobs_pb2.JobSpec, prefix: str) -> Parameters:
    try:
        return _read_parameters(job.config_json, job.input_schema_json)
    except ValueError as error:
        raise InvalidArgument(
            f"{prefix}job: its parameters cannot be used, for its schema or its defaults {error}; "
            "record the job again",
            reason="INVALID_CONFIG",
            metadata={f"{prefix}job": str(error)},
        ) from None


@lru_cache(maxsize=64)
def _read_parameters(config_json: str, input_schema_json: str) -> Parameters:
    """Read parameters once per content: checking a schema takes longer than all the rest of a submit."""
    return Parameters(config_json, input_schema_json)


def _display_name(job_version: str, run: RunName) -> str:
    word = names.short(job_version).partition(":")[0]
    return f"{word[: _MAX_DISPLAY_NAME - 5]}-{run[-4:]}"


def _check_text(text: str, field: str, most: int) -> str:
    if len(text) > most:
        raise InvalidArgument.field(field, f"has {len(text)} characters; at most {most} can be kept")
    if not text.isprintable():
        raise InvalidArgument.field(field, "holds characters that cannot be printed; leave them out")
    return text


def _moment(time: Timestamp, field: str) -> datetime:
    try:
        return time.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise InvalidArgument.field(field, "is no moment between the years 1 and 9999") from None
