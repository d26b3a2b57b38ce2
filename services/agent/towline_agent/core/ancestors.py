"""Which environment that is there a new one can be made from, by installing only what differs."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Self

from towline_agent.core.keys import EnvironmentKey

__all__ = ["LABEL_ENVIRONMENT", "Ancestor", "closest", "family", "label_of", "may_descend"]

# Of environment images: what a later one compares itself with.
LABEL_ENVIRONMENT: Final = "towline.environment"

# Each one adds a layer, and what it replaces stays in those below.
_MOST_DEPTH: Final = 8
# Beyond this a new one is made of nothing, and smaller.
_MOST_CHANGES: Final = 0.25


@dataclass(frozen=True)
class Ancestor:
    """An environment image, as its label tells."""

    image_id: str
    family: str
    requirements: frozenset[str]
    depth: int
    """How many environments it descends from."""

    @classmethod
    def read(cls, image_id: str, labels: Mapping[str, str]) -> Self | None:
        """Read the label; None where it has none, or one of another version."""
        try:
            said = json.loads(labels[LABEL_ENVIRONMENT])
            return cls(image_id, said["family"], frozenset(said["requirements"]), int(said["depth"]))
        except (KeyError, TypeError, ValueError):
            return None


def family(key: EnvironmentKey, job: str) -> str:
    """Name what environments have in common of which one may be made from the other.

    Both are the same job's: what a package has left behind outside of its own files, such as a build script
    that wrote elsewhere, must not come to another one's runs.

    Args:
        key: Of one.
        job: "jobs/{job}".
    """
    system = (key.base_image_id, key.system_packages)
    common = (job, system, key.python, key.index_urls, key.uv_version, key.recipe)
    return json.dumps(common)


def may_descend(key: EnvironmentKey) -> bool:
    """Tell whether an environment is no more than a whole list of versions, all from indexes."""
    plain = all("==" in line and " @ " not in line for line in key.requirements)
    return key.complete and plain and not key.wheels and not key.lock


def closest(key: EnvironmentKey, job: str, found: Iterable[Ancestor]) -> Ancestor | None:
    """Return the environment that differs least from a new one; None where it is better made of nothing."""
    if not may_descend(key):
        return None
    wanted, mine = frozenset(key.requirements), family(key, job)
    near = [
        (len(one.requirements ^ wanted), one.depth, one)
        for one in found
        if one.family == mine and one.depth < _MOST_DEPTH
    ]
    if not near:
        return None
    changes, _, nearest = min(near, key=lambda each: each[:2])
    # A changed version counts twice: as one that goes and one that comes.
    return nearest if changes <= 2 * _MOST_CHANGES * len(wanted) else None


def label_of(key: EnvironmentKey, job: str, ancestor: Ancestor | None) -> str:
    """Write the label of a new environment."""
    depth = ancestor.depth + 1 if ancestor else 0
    said = {"family": family(key, job), "requirements": sorted(set(key.requirements)), "depth": depth}
    return json.dumps(said)
