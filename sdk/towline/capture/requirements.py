"""Which requirements make an environment again: decisions only, no I/O."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import unquote, urlsplit

from towline.capture.git import without_credentials

__all__ = ["Distribution", "Selection", "canonical", "select"]

# Installers are in each image; Towline itself gets into containers by other means.
_NEVER: Final = frozenset({"pip", "towline", "wheel"})
_TOWLINE: Final = "towline"
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Distribution:
    """One installed distribution."""

    name: str
    """Canonical."""
    version: str
    requires: frozenset[str] = frozenset()
    """Canonical names of what it may need, extras included."""
    requested: bool = False
    """Whether a person asked for it, as far as the installer noted that."""
    installer: str = ""
    direct_url: Mapping[str, Any] | None = None
    """What the installer noted of a URL it came from (PEP 610)."""

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> "Distribution | None":
        """Read the facts that the probe gives; None for a damaged installation."""
        if not facts["name"] or not facts["version"]:
            return None
        needed = (_NAME.match(requirement) for requirement in facts["requires"])
        return cls(
            name=canonical(facts["name"]),
            version=facts["version"],
            requires=frozenset(canonical(name.group()) for name in needed if name),
            requested=facts["requested"],
            installer=facts["installer"],
            direct_url=facts["direct_url"],
        )


class Selection(NamedTuple):
    """What is installed again."""

    requirements: list[str]
    """PEP 508, sorted by name."""
    left_out: list[str]
    """Names of what cannot be: it was installed from this machine's disk, and is not in the source tree."""


def select(found: Iterable[Distribution], source_root: Path) -> Selection:
    """Choose the requirements of an environment.

    Each distribution is pinned to its version, or to the commit or URL it came from. Left out are Towline,
    what was installed for Towline alone (nobody asked for it, and nothing else may need it), pip and wheel,
    and what was installed from a folder or file of this machine.

    Args:
        found: In the order of sys.path; the first one of a name is the one that is imported.
        source_root: Folder of the snapshot.
    """
    installed: dict[str, Distribution] = {}
    for distribution in found:
        installed.setdefault(distribution.name, distribution)
    selection = Selection([], [])
    for name in sorted(_kept(installed)):
        origin = _origin(installed[name])
        if not isinstance(origin, Path):
            selection.requirements.append(origin)
        elif not origin.is_relative_to(source_root):
            selection.left_out.append(name)
    return selection


def _kept(installed: Mapping[str, Distribution]) -> set[str]:
    towlines = _reachable(installed, {_TOWLINE} & installed.keys())
    own = {name for name in installed if name not in towlines or installed[name].requested}
    return _reachable(installed, own - _NEVER) - _NEVER


def _reachable(installed: Mapping[str, Distribution], start: Iterable[str]) -> set[str]:
    seen, waiting = set(start), list(start)
    while waiting:
        needed = installed[waiting.pop()].requires & installed.keys()
        waiting.extend(needed - seen)
        seen |= needed
    return seen


def _origin(distribution: Distribution) -> str | Path:
    """Give the requirement, or the place on this machine it was installed from."""
    pinned = f"{distribution.name}=={distribution.version}"
    noted = distribution.direct_url
    # conda notes where its packages were built, on machines long gone.
    if not noted or distribution.installer == "conda":
        return pinned
    url = str(noted["url"])
    if url.startswith("file:"):
        return Path(unquote(urlsplit(url).path))
    url = without_credentials(url)
    if version_control := noted.get("vcs_info"):
        url = f"{version_control['vcs']}+{url}@{version_control['commit_id']}"
    if folder := noted.get("subdirectory"):
        url += f"#subdirectory={folder}"
    return f"{distribution.name} @ {url}"


def canonical(name: str) -> str:
    """Write a distribution's name as PEP 503 does."""
    return re.sub(r"[-_.]+", "-", name).lower()
