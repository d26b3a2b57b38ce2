"""What runs have in common that differ in parameters and display name only: made once, however many they are.

A run's LaunchSpec is its kind's text followed by that of its own fields: protobuf messages concatenate.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import cached_property, lru_cache
from typing import Final

from towline import names
from towline.errors import InvalidArgument
from towline.names import QueueName, RunName
from towline.requests import dockerfiles
from towline.v1 import docker_pb2, jobs_pb2, queues_pb2, runs_pb2
from towline_queue.core import limits, retries
from towline_queue.core.lease_policy import LeasePolicy, policy_of
from towline_queue.core.parameters import Parameters
from towline_queue.core.submission import MAX_DISPLAY_NAME, NewRun, Submission
from towline_queue.core.template import template_of

__all__ = ["Kind", "Recipe", "repeat_run", "taken_apart"]

# The fields of a LaunchSpec that are a run's own: number and wire type as they stand before the text.
_RUN: Final = "\x0a"
_DISPLAY_NAME: Final = "\x12"
_CONFIG: Final = "\x32"


@dataclass(frozen=True)
class Kind:
    """What is stored once for all runs of a kind.

    Attributes:
        spec: The serialized LaunchSpec, without the fields that are a run's own.
        queue: Where they wait.
        priority: A towline.v1.Priority.
        shape: GPUs of one attempt.
        job_version: "jobs/{job}/versions/{version}".
        author: Who submits.
        labels: Free labels.
        variables: JSON text by name, as given.
        retry_of: The run that they repeat; empty: none.
        queue_spec: The serialized QueueSpec whose template they fill.
        max_wait: How long they may wait for an agent; None: no limit.
        retry_policy: The serialized RetryPolicy.
        inputs: The artifact versions that they read, "artifacts/{artifact}/versions/{version}".
    """

    spec: bytes
    queue: QueueName
    priority: "runs_pb2.Priority.ValueType"
    shape: int
    job_version: str
    author: str
    labels: Mapping[str, str]
    variables: Mapping[str, str]
    retry_of: str
    queue_spec: bytes
    max_wait: timedelta | None
    retry_policy: bytes
    inputs: tuple[str, ...]

    @cached_property
    def digest(self) -> bytes:
        """What the spec is found by: sha256 over it and that of the queue."""
        return hashlib.sha256(hashlib.sha256(self.queue_spec).digest() + self.spec).digest()

    @cached_property
    def labels_json(self) -> str:
        """The labels as a JSON object."""
        return json.dumps(dict(self.labels))

    @cached_property
    def variables_json(self) -> str:
        """The variables as a JSON object."""
        return json.dumps(dict(self.variables))


class Recipe:
    """Makes the runs of one kind.

    Args:
        submission: What was asked for.
        version: The job version it names.
        queue_spec: The serialized QueueSpec whose template they fill.
        prefix: Put before each path in an error, such as "runs[3].".
        inputs: What they read, each by version.

    Raises:
        InvalidArgument: The job's parameters (INVALID_CONFIG), template variables (INVALID_VARIABLE), time
            limits or retries (INVALID_FIELD) are wrong.
    """

    def __init__(
        self,
        submission: Submission,
        version: jobs_pb2.JobVersion,
        queue_spec: bytes,
        prefix: str = "",
        inputs: Sequence[jobs_pb2.ArtifactInput] = (),
    ) -> None:
        queue = _queue_terms(queue_spec)
        path = prefix or "run."
        self._parameters = _parameters(version.spec, prefix)
        word = names.short(version.name).partition(":")[0]
        self._word = (f"build-{word}" if submission.build_only else word)[: MAX_DISPLAY_NAME - 5]
        spec = runs_pb2.LaunchSpec(
            job_version=version.name,
            queue=submission.queue,
            job=version.spec,
            author=submission.author,
            limits=limits.limits_of(submission.limits, queue.limits, f"{path}limits"),
            retry_policy=_retry_policy(submission.retry_policy, queue, f"{path}retry_policy"),
            inputs=inputs,
            build_only=submission.build_only,
            dockerfile=_dockerfile(submission, version.spec, queue_spec, f"{path}dockerfile"),
        )
        _fill_resource(spec, queue_spec, submission.variables, prefix)
        shape = spec.docker.gpus
        # Where they tell a run's name, the options of each run are its own.
        self._macros: Mapping[str, str] | None = None
        self._build_only = submission.build_only
        if template_of(queue_spec).names_the_run:
            self._macros = _macros(spec)
            self._hints = version.spec.hints
            spec.ClearField("docker")
        self.kind = Kind(
            spec=spec.SerializeToString(deterministic=True),
            queue=submission.queue,
            priority=submission.priority,
            shape=shape,
            job_version=version.name,
            author=submission.author,
            labels=submission.labels,
            variables=submission.variables,
            retry_of="",
            queue_spec=queue_spec,
            max_wait=limits.max_wait_of(spec.limits),
            retry_policy=spec.retry_policy.SerializeToString(deterministic=True),
            inputs=_versions(spec),
        )

    def own_fields(
        self,
        run_names: Sequence[RunName],
        configs: Sequence[str],
        display_names: Sequence[str],
        prefix: str = "",
    ) -> list[bytes]:
        """Make what is the own of each run: the serialized LaunchSpec with these fields only.

        Args:
            run_names: Of the runs.
            configs: Their parameters, as given.
            display_names: As given, checked; empty: to be made from the job's name.
            prefix: Put before each path in an error, such as "runs[3].".

        Raises:
            InvalidArgument: The parameters of one are wrong (INVALID_CONFIG), or what the template makes of
                its name (INVALID_VARIABLE).
        """
        whole = self._parameters.resolve_all(configs, prefix)
        word = self._word
        titles = [
            given or f"{word}-{name[-4:]}" for name, given in zip(run_names, display_names, strict=True)
        ]
        own = _own_fields(run_names, titles, whole)
        if self._macros is None:
            return own
        return [
            fields + self._own_options(name, title, prefix)
            for fields, name, title in zip(own, run_names, titles, strict=True)
        ]

    def _own_options(self, name: RunName, display_name: str, prefix: str) -> bytes:
        """Make the options of a run whose template names it: the serialized LaunchSpec with these only."""
        assert self._macros is not None  # noqa: S101 - asked before
        macros = dict(self._macros) | {"run_id": name.partition("/")[2], "run_name": display_name}
        options = template_of(self.kind.queue_spec).resolve(
            self.kind.variables, self._hints, macros, prefix, build_only=self._build_only
        )
        return runs_pb2.LaunchSpec(docker=options).SerializeToString(deterministic=True)


def taken_apart(new: NewRun) -> tuple[Kind, bytes]:
    """Return a run's kind and what is its own: the serialized LaunchSpec with these fields only."""
    spec, own = runs_pb2.LaunchSpec(), runs_pb2.LaunchSpec()
    spec.CopyFrom(new.spec)
    own.run, own.display_name, own.config_json = spec.run, spec.display_name, spec.config_json
    for field in ("run", "display_name", "config_json"):
        spec.ClearField(field)
    if template_of(new.queue_spec).names_the_run:
        own.docker.CopyFrom(spec.docker)
        spec.ClearField("docker")
    kind = Kind(
        spec=spec.SerializeToString(deterministic=True),
        queue=QueueName(spec.queue),
        priority=new.priority,
        shape=new.spec.docker.gpus,
        job_version=spec.job_version,
        author=spec.author,
        labels=new.labels,
        variables=new.variables,
        retry_of=new.retry_of,
        queue_spec=new.queue_spec,
        max_wait=limits.max_wait_of(spec.limits),
        retry_policy=spec.retry_policy.SerializeToString(deterministic=True),
        inputs=_versions(spec),
    )
    return kind, own.SerializeToString(deterministic=True)


def repeat_run(ended: NewRun, name: RunName) -> NewRun:
    """Make a run with the content of one that has ended: its job, parameters, variables, template and limits.

    Args:
        ended: The run to repeat, as it was stored.
        name: The new run's.
    """
    spec = runs_pb2.LaunchSpec()
    spec.CopyFrom(ended.spec)
    spec.run = name
    # Whole also where it was made before runs had one.
    spec.retry_policy.CopyFrom(retries.policy_of(spec.retry_policy, runs_pb2.RetryPolicy()))
    # Filled again, for macros such as ${run_id} stand for the new run now.
    _fill_resource(spec, ended.queue_spec, ended.variables, "")
    return replace(ended, spec=spec, due=None, retry_of=ended.spec.run)


def _versions(spec: runs_pb2.LaunchSpec) -> tuple[str, ...]:
    return tuple(sorted({one.artifact for one in spec.inputs}))


def _own_fields(
    run_names: Sequence[str], display_names: Sequence[str], configs: Sequence[str]
) -> list[bytes]:
    """Serialize LaunchSpec(run, display_name, config_json) for each run: by hand, in a fifth of the time."""
    lengths = _LENGTHS
    each = zip(run_names, _as_bytes(display_names), _as_bytes(configs), strict=True)
    return [
        (
            f"{_RUN}{lengths[len(name)]}{name}{_DISPLAY_NAME}{lengths[len(title)]}{title}"
            f"{_CONFIG}{lengths[len(config)]}{config}"
        ).encode("latin-1")
        for name, title, config in each
    ]


def _as_bytes(texts: Sequence[str]) -> Sequence[str]:
    """Return texts whose characters are the bytes of these in UTF-8: most are that already."""
    return texts if "".join(texts).isascii() else [text.encode().decode("latin-1") for text in texts]


def _written(number: int) -> str:
    """Write a number as protobuf does, a character a byte: seven bits each, the lowest first."""
    digits = ""
    while number >= 128:
        digits += chr(number & 127 | 128)
        number >>= 7
    return digits + chr(number)


class _Lengths(dict[int, str]):
    """Numbers as they are `_written`: those up to 4096 once for all."""

    def __missing__(self, number: int) -> str:
        return _written(number)


_LENGTHS: Final = _Lengths({number: _written(number) for number in range(4096)})


def _fill_resource(
    spec: runs_pb2.LaunchSpec, queue_spec: bytes, variables: Mapping[str, str], prefix: str
) -> None:
    options: docker_pb2.DockerOptions = template_of(queue_spec).resolve(
        variables, spec.job.hints, _macros(spec), prefix, build_only=spec.build_only
    )
    spec.docker.CopyFrom(options)
    policy = _queue_terms(queue_spec).lease_policy
    spec.stop_grace.FromTimedelta(policy.stop_grace)
    spec.stop_signal = policy.stop_signal


def _macros(spec: runs_pb2.LaunchSpec) -> dict[str, str]:
    return {
        "run_id": spec.run.partition("/")[2],
        "run_name": spec.display_name,
        "job": names.short(spec.job_version),
        "queue": names.short(spec.queue),
        "author": spec.author,
    }


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


def _dockerfile(
    submission: Submission, job: jobs_pb2.JobSpec, queue_spec: bytes, field: str
) -> jobs_pb2.DockerfileBuild | None:
    """Return how the image is built, if with a Dockerfile; InvalidArgument if it may not be as asked for."""
    given = submission.dockerfile
    if given is None:
        return job.dockerfile if job.HasField("dockerfile") else None
    if not template_of(queue_spec).dockerfile_override:
        raise InvalidArgument.field(
            field,
            f"the queue {names.short(submission.queue)} builds images as their jobs say; leave it out, or "
            "have its administrator allow it (docker.image.dockerfile_override)",
        )
    if job.WhichOneof("source") == "image":
        raise InvalidArgument.field(field, "the job is an image, which is built already; leave it out")
    if not given.path and not job.HasField("dockerfile"):
        raise InvalidArgument.field(f"{field}.path", "the job has no Dockerfile; name one in its source tree")
    made = dockerfiles.overridden(job.dockerfile, given)
    dockerfiles.check(made, field)  # together they may have more build arguments than one can have
    return made


def _parameters(job: jobs_pb2.JobSpec, prefix: str) -> Parameters:
    try:
        files = tuple((file.key, file.path) for file in job.config_files)
        return _read_parameters(job.config_json, job.input_schema_json, files)
    except ValueError as error:
        raise InvalidArgument(
            f"{prefix}job: its parameters cannot be used, for its schema or its defaults {error}; "
            "record the job again",
            reason="INVALID_CONFIG",
            metadata={f"{prefix}job": str(error)},
        ) from None


@lru_cache(maxsize=64)
def _read_parameters(
    config_json: str, input_schema_json: str, files: tuple[tuple[str, str], ...]
) -> Parameters:
    """Read parameters once per content: checking a schema takes longer than all the rest of a submit."""
    return Parameters(config_json, input_schema_json, dict(files))
