"""Who says to have read which artifact versions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from towline import names
from towline.errors import InvalidArgument
from towline.v1.artifacts_pb2 import RecordArtifactUsesRequest
from towline_registry.core import versions

__all__ = ["Uses"]

MAX_RUNS: Final = 1000
MAX_VERSIONS: Final = 64


@dataclass(frozen=True)
class Uses:
    """Runs, or with none the recording of a job version, and what each has read.

    Args:
        runs: "runs/{run}" each.
        job_version: Theirs, named by its number.
        versions: The artifact and the number of each version.
    """

    runs: Sequence[names.RunName]
    job_version: names.JobVersionName
    versions: Sequence[tuple[str, int]]

    @classmethod
    def checked(cls, request: RecordArtifactUsesRequest) -> "Uses":
        """Check a request; InvalidArgument names the field that is wrong."""
        _bound("runs", len(request.runs), 0, MAX_RUNS)
        _bound("artifact_versions", len(request.artifact_versions), 1, MAX_VERSIONS)
        if not request.runs and not request.job_version:
            raise InvalidArgument.field("job_version", "name the job version that was recorded, or runs")
        job_version = names.JobVersionName("")
        if request.job_version:
            job_version = names.job_version(request.job_version, "job_version")
            versions.number(job_version, "job_version")
        read = [names.artifact_version(each, "artifact_versions") for each in request.artifact_versions]
        return cls(
            [names.run(run, "runs") for run in request.runs],
            job_version,
            [(names.split_version(each)[0], versions.number(each, "artifact_versions")) for each in read],
        )


def _bound(field: str, count: int, least: int, most: int) -> None:
    if not least <= count <= most:
        raise InvalidArgument.field(
            field, f"{count} are not within {least} to {most}; send them in several calls"
        )
