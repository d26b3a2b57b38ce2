"""One build of an image: what is wanted, what it is made of, and who hears of it."""

from dataclasses import dataclass, replace

from towline import names
from towline.errors import TowlineError
from towline.v1 import jobs_pb2, leases_pb2, runs_pb2
from towline_agent.core import keys, locks
from towline_agent.core.containers import ImageFacts
from towline_agent.core.failures import failed
from towline_agent.core.ownership import made_labels
from towline_agent.installations import BuildLog
from towline_agent.telling import Tell

__all__ = ["Build", "not_built"]


@dataclass(frozen=True)
class Build:
    """One build."""

    spec: runs_pb2.LaunchSpec
    base: ImageFacts
    key: keys.EnvironmentKey
    """Of the environment."""
    log: BuildLog
    tell: Tell
    locked: locks.Locked | None = None
    """The environment's lock, where it is one that is installed in place of its requirements."""

    @property
    def job(self) -> str:
        """Return "jobs/{job}"."""
        return names.split_version(names.JobVersionName(self.spec.job_version))[0]

    @property
    def python(self) -> jobs_pb2.PythonEnvironment:
        """Return what is to be installed."""
        return self.spec.job.python

    def labels(self, builder: str, digest: str) -> dict[str, str]:
        """Return the labels of an image that has this content key; see `made_labels`."""
        return made_labels(builder, f"sha256:{digest}", self.spec.job_version)

    @property
    def brings_python(self) -> bool:
        """Tell whether the environment has an interpreter of its own, and not the base image's."""
        return self.locked is not None and self.locked.makes_prefix

    def by(self, locked: locks.Locked | None) -> "Build":
        """Return the build with the lock that the source tree has."""
        return replace(self, locked=locked, key=replace(self.key, lock=locked.digest if locked else ""))


async def not_built(error: TowlineError, log: BuildLog) -> leases_pb2.AttemptResult:
    """Say, in the build's log too, why an image cannot be built, and return it as the attempt's result."""
    await log.write(f"towline: {error.message}\n".encode())
    return failed(runs_pb2.FAILURE_CAUSE_IMAGE_BUILD, f"The image could not be built: {error.message}")
