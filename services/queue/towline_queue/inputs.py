"""What runs read: the artifacts that jobs and submissions name, resolved to versions and noted."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from towline.client.parallel import in_parallel
from towline.errors import InvalidArgument, NotFound
from towline.names import ArtifactVersionName
from towline.v1 import jobs_pb2
from towline_queue.core.submission import MAX_INPUTS, Submission
from towline_queue.registry_client import RegistryClient
from towline_queue.storage.new_runs import NewRuns

__all__ = ["AskedInputs", "asked_inputs", "note_uses", "resolve"]


class AskedInputs(NamedTuple):
    """What the runs of a kind are to read.

    Attributes:
        artifacts: By version or alias, by what the program calls them.
        field: Path of the submission's inputs in the request, such as "run.inputs".
    """

    artifacts: Mapping[str, ArtifactVersionName]
    field: str


def asked_inputs(job: jobs_pb2.JobSpec, submission: Submission, field: str) -> AskedInputs:
    """Put a submission's inputs over those of its job; runs that only build read nothing.

    Raises:
        InvalidArgument: They are too many together.
    """
    if submission.build_only:
        return AskedInputs({}, field)
    artifacts = {one.name: ArtifactVersionName(one.artifact) for one in job.inputs} | dict(submission.inputs)
    if len(artifacts) > MAX_INPUTS:
        raise InvalidArgument.field(
            field, f"with those of the job they are {len(artifacts)}; at most {MAX_INPUTS} can be read"
        )
    return AskedInputs(artifacts, field)


async def resolve(
    registry: RegistryClient, asked: Sequence[AskedInputs]
) -> list[tuple[jobs_pb2.ArtifactInput, ...]]:
    """Return the inputs of each kind by version, in the order of their names; an alias is one version in all.

    Raises:
        NotFound: With the path of each that is not there, such as "run.inputs[data]"; the reason and metadata
            are those of the first: ARTIFACT_NOT_FOUND or ARTIFACT_VERSION_NOT_FOUND.
        Unavailable: The registry gave no answer; reason REGISTRY_UNAVAILABLE.
    """
    found: dict[str, str] = {}
    missing: dict[str, NotFound] = {}

    async def look(artifact: ArtifactVersionName) -> None:
        try:
            found[artifact] = await registry.artifact_version(artifact)
        except NotFound as error:
            missing[artifact] = error

    if wanted := {artifact for one in asked for artifact in one.artifacts.values()}:
        await in_parallel(sorted(wanted), look)
    if missing:
        raise _not_found(asked, missing)
    return [
        tuple(
            jobs_pb2.ArtifactInput(name=name, artifact=found[artifact])
            for name, artifact in sorted(one.artifacts.items())
        )
        for one in asked
    ]


def _not_found(asked: Sequence[AskedInputs], missing: Mapping[str, NotFound]) -> NotFound:
    paths = {
        f"{one.field}[{name}]": missing[artifact]
        for one in asked
        for name, artifact in sorted(one.artifacts.items())
        if artifact in missing
    }
    path, first = next(iter(paths.items()))
    return NotFound(
        "; ".join(f"{path}: {error.message}" for path, error in paths.items()),
        reason=first.reason,
        metadata=first.metadata | {"field": path},
    )


async def note_uses(registry: RegistryClient, made: NewRuns) -> None:
    """Tell the registry which versions runs read, before they are stored: none goes while a run has it.

    Raises:
        NotFound: A version was deleted since it was resolved.
        Unavailable: The registry gave no answer; reason REGISTRY_UNAVAILABLE.
    """
    readers: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for name, number in zip(made.names, made.run_kinds, strict=True):
        kind = made.kinds[number - 1].kind
        if kind.inputs:
            readers.setdefault((kind.job_version, kind.inputs), []).append(name)
    await in_parallel(readers, lambda what: registry.record_uses(readers[what], *what))
