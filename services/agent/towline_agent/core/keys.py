"""Content keys: an image's tag says everything that went into it, and nothing else."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Final
from urllib.parse import urlsplit, urlunsplit

from towline.v1 import jobs_pb2

__all__ = ["EnvironmentKey", "environment_tag", "job_tag", "source_id", "without_credentials"]

# Rises when the recipe changes in a way that changes images.
RECIPE_VERSION: Final = 1


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
    recipe: int = RECIPE_VERSION

    def digest(self) -> str:
        """Return 64 hex digits; the order of requirements does not matter."""
        fields = asdict(self) | {"requirements": sorted(set(self.requirements))}
        return _sha256(json.dumps(fields, sort_keys=True))


def environment_tag(key: EnvironmentKey) -> str:
    """Return the reference of an environment image."""
    return f"towline/env:{key.digest()[:40]}"


def job_tag(key: EnvironmentKey, source: str) -> str:
    """Return the reference of the image that holds an environment and a source tree.

    Args:
        key: The environment.
        source: From `source_id`.
    """
    return f"towline/job:{_sha256(key.digest() + ' ' + source)[:40]}"


def source_id(spec: jobs_pb2.JobSpec) -> str:
    """Name the content of a code or git source."""
    if spec.WhichOneof("source") == "git":
        return f"git:{spec.git.commit}:{spec.git.subfolder.strip('/')}"
    return spec.code.digest


def without_credentials(urls: Sequence[str]) -> tuple[str, ...]:
    """Return URLs without user names and passwords."""
    return tuple(_bare(url) for url in urls)


def _bare(url: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
