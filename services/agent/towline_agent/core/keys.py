"""Content keys: an image's tag says everything that went into it, and nothing else."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Final
from urllib.parse import urlsplit, urlunsplit

from towline.v1 import jobs_pb2

__all__ = [
    "EnvironmentKey",
    "environment_tag",
    "job_digest",
    "job_tag",
    "lock_id",
    "source_id",
    "system_digest",
    "system_tag",
    "wheel_id",
    "without_credentials",
]

# Rises when the recipe changes in a way that changes images.
RECIPE_VERSION: Final = 3


@dataclass(frozen=True)
class EnvironmentKey:
    """Everything that goes into an environment image."""

    base_image_id: str
    python: str
    """Interpreter as "X.Y"."""
    requirements: tuple[str, ...]
    index_urls: tuple[str, ...]
    """Indexes in order, without credentials: who asks does not change what is served."""
    uv_version: str
    wheels: tuple[str, ...] = ()
    """File name and digest of each."""
    complete: bool = False
    """See PythonEnvironment.complete."""
    lock: str = ""
    """What names the lock; empty: none."""
    system_packages: tuple[str, ...] = ()
    """Of the base image's distribution, in order."""
    recipe: int = RECIPE_VERSION

    def digest(self) -> str:
        """Return 64 hex digits; the order of requirements does not matter."""
        fields = asdict(self) | {
            "requirements": sorted(set(self.requirements)),
            "wheels": sorted(set(self.wheels)),
        }
        return _sha256(json.dumps(fields, sort_keys=True))


def environment_tag(key: EnvironmentKey) -> str:
    """Return the reference of an environment image."""
    return f"towline/env:{key.digest()[:40]}"


def system_digest(base_image_id: str, packages: Sequence[str]) -> str:
    """Return 64 hex digits for a base image with packages of its distribution, in any order."""
    return _sha256(json.dumps(["system", RECIPE_VERSION, base_image_id, *sorted(set(packages))]))


def system_tag(digest: str) -> str:
    """Return the reference of a base image with packages of its distribution.

    Args:
        digest: From `system_digest`.
    """
    return f"towline/system:{digest[:40]}"


def job_digest(key: EnvironmentKey, source: str, editables: Sequence[str] = ()) -> str:
    """Return 64 hex digits for an environment with a source tree in it.

    Args:
        key: The environment.
        source: From `source_id`.
        editables: Folders of the source tree that are installed in editable mode.
    """
    return _sha256(json.dumps([key.digest(), source, *sorted(set(editables))]))


def job_tag(digest: str) -> str:
    """Return the reference of the image that holds an environment and a source tree.

    Args:
        digest: From `job_digest`.
    """
    return f"towline/job:{digest[:40]}"


def wheel_id(wheel: jobs_pb2.Wheel) -> str:
    """Name a wheel and its content."""
    return f"{wheel.filename} {wheel.digest}"


def lock_id(python: jobs_pb2.PythonEnvironment, channels: str = "") -> str:
    """Name a lock as a job has it: of files that it includes, the source tree tells; empty: there is none.

    Args:
        python: The environment that has it.
        channels: From `Channels.id`: what this node makes of a lock of conda depends on them.
    """
    lock = python.lock
    if not python.HasField("lock"):
        return ""
    more = [channels] if lock.format == jobs_pb2.LOCK_FORMAT_CONDA_ENVIRONMENT else []
    return json.dumps([lock.format, lock.path, lock.digest, *lock.extras, *more])


def source_id(spec: jobs_pb2.JobSpec) -> str:
    """Name the content of a code or git source."""
    if spec.WhichOneof("source") == "git":
        return f"git:{spec.git.commit}:{spec.git.subfolder.strip('/')}:{spec.git.patch_digest}"
    return spec.code.digest


def without_credentials(urls: Sequence[str]) -> tuple[str, ...]:
    """Return URLs without user names and passwords."""
    return tuple(_bare(url) for url in urls)


def _bare(url: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
