"""Which requirements make an environment again: decisions only, no I/O."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from towline.capture.git import without_credentials

__all__ = ["Distribution", "Editable", "LocalInstall", "Selection", "canonical", "select"]

# It gets into containers by other means.
_TOWLINE: Final = "towline"
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_SITES: Final = frozenset({"site-packages", "dist-packages"})
_OF_DEBIAN: Final = Path("/usr/lib/python3/dist-packages")


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
    metadata: Path = Path()
    """Its .dist-info or .egg-info."""
    root: Path = Path()
    """The folder of sys.path that it lies in."""
    modified: float = 0.0
    """When its metadata were written, in seconds since 1970."""

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> "Distribution | None":
        """Read the facts that the probe gives; None for a damaged installation."""
        if not facts["name"] or not facts["version"]:
            return None
        needed = (_NAME.match(requirement) for requirement in facts["requires"])
        noted = facts["direct_url"]
        return cls(
            name=canonical(facts["name"]),
            version=facts["version"],
            requires=frozenset(canonical(name.group()) for name in needed if name),
            requested=facts["requested"],
            installer=facts["installer"],
            direct_url=noted if isinstance(noted, dict) and isinstance(noted.get("url"), str) else None,
            metadata=Path(facts["metadata"]),
            root=Path(facts["root"]),
            modified=facts["modified"],
        )

    @property
    def editable_folder(self) -> Path | None:
        """The folder of its project, if it is installed in editable mode."""
        noted = self.direct_url or {}
        is_editable = noted and (noted.get("dir_info") or {}).get("editable")
        return _place(str(noted["url"])) if is_editable else None

    @property
    def in_site(self) -> bool:
        """Whether it lies where installers put things, rather than in a folder of somebody's sources."""
        return not self.metadata.name.endswith(".egg-info") or not _SITES.isdisjoint(self.root.parts)


@dataclass(frozen=True)
class Editable:
    """A distribution that is installed in editable mode."""

    name: str
    folder: Path
    """Of its project."""


@dataclass(frozen=True)
class LocalInstall:
    """A distribution that was installed from a file or a folder of this machine, as a copy."""

    distribution: Distribution
    source: Path
    """What it was installed from; it may be gone."""
    sha256: str = ""
    """Of that file, as far as the installer noted it."""


@dataclass
class Selection:
    """What is installed again."""

    requirements: list[str] = field(default_factory=list)
    """PEP 508, sorted by name."""
    local: list[LocalInstall] = field(default_factory=list)
    editables: list[Editable] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    """Lines for people."""


def select(
    found: Iterable[Distribution],
    source_root: Path,
    *,
    develop: Mapping[str, str] | None = None,
    conda: bool = False,
) -> Selection:
    """Choose what makes an environment again.

    Each distribution is pinned to its version, or to the commit or URL it came from; those that came from
    this machine are told apart. Left out are Towline, what was installed for Towline alone (nobody asked for
    it, and nothing else may need it), and what lies in the source tree without being installed.

    Args:
        found: In the order of sys.path.
        source_root: Folder of the snapshot.
        develop: Folders that `setup.py develop` has linked, by the name of the distribution.
        conda: Whether the environment is one of conda.
    """
    selection = Selection()
    linked = {canonical(name): Path(folder) for name, folder in (develop or {}).items()}
    installed = _chosen(found, selection)
    of_conda, of_system = [], []
    for name in sorted(_kept(installed)):
        distribution = installed[name]
        if distribution.installer == "conda":
            of_conda.append(name)
        elif distribution.root == _OF_DEBIAN:
            of_system.append(name)
        if name in linked and not distribution.direct_url:
            selection.editables.append(Editable(name, linked[name]))
        elif not distribution.in_site:
            if not distribution.root.is_relative_to(source_root):
                selection.warnings.append(
                    f"{name} is imported from {distribution.root}, where it is not installed, and left out; "
                    "install it, or copy it into the source tree"
                )
        else:
            _add(selection, distribution, conda=conda)
    if of_conda:
        selection.warnings.append(
            f"{_listed(of_conda)} came from conda; containers get the same versions from a package index"
        )
    if of_system:
        selection.warnings.append(
            f"{_listed(of_system)} came with the operating system; containers get the same versions from a "
            "package index, if it has them. A virtual environment of the project's own is safer"
        )
    return selection


def _chosen(found: Iterable[Distribution], selection: Selection) -> dict[str, Distribution]:
    """Give one distribution per name: the one that imports would find."""
    named: dict[str, list[Distribution]] = {}
    for distribution in found:
        # "~umpy-2.0.dist-info": pip renames what it removes, and leaves it where it is interrupted.
        if not distribution.metadata.name.startswith("~"):
            named.setdefault(distribution.name, []).append(distribution)
    chosen = {}
    for name, rivals in named.items():
        first = rivals[0]
        if not first.in_site:
            # What setuptools leaves in a source tree that it installs in editable mode.
            first = next((each for each in rivals if each.in_site), first)
        together = [each for each in rivals if each.root == first.root and each.in_site == first.in_site]
        chosen[name] = max(together, key=lambda each: each.modified)
        versions = sorted({each.version for each in together})
        if len(versions) > 1:
            selection.warnings.append(
                f"{name} is installed more than once in {first.root} ({', '.join(versions)}); "
                f"{chosen[name].version}, the one that was installed last, is recorded. Install it again to "
                "repair the environment"
            )
    return chosen


def _kept(installed: Mapping[str, Distribution]) -> set[str]:
    towlines = _reachable(installed, {_TOWLINE} & installed.keys())
    own = {name for name in installed if name not in towlines or installed[name].requested}
    return _reachable(installed, own - {_TOWLINE}) - {_TOWLINE}


def _reachable(installed: Mapping[str, Distribution], start: Iterable[str]) -> set[str]:
    seen, waiting = set(start), list(start)
    while waiting:
        needed = installed[waiting.pop()].requires & installed.keys()
        waiting.extend(needed - seen)
        seen |= needed
    return seen


def _add(selection: Selection, distribution: Distribution, *, conda: bool) -> None:
    noted = distribution.direct_url
    url = str(noted["url"]) if noted else ""
    # conda notes where its packages were built, on machines long gone.
    if not noted or distribution.installer == "conda" or (conda and _is_build_place(url)):
        selection.requirements.append(f"{distribution.name}=={distribution.version}")
    elif not url.startswith("file:"):
        selection.requirements.append(f"{distribution.name} @ {_fetched(noted)}")
    elif folder := distribution.editable_folder:
        selection.editables.append(Editable(distribution.name, folder))
    else:
        selection.local.append(LocalInstall(distribution, _place(url), _sha256(noted)))


def _is_build_place(url: str) -> bool:
    return any(word in url for word in ("/croot/", "/feedstock_root/", "/conda-bld/", "/build_artifacts/"))


def _place(url: str) -> Path:
    return Path(unquote(urlsplit(url).path))


def _fetched(noted: Mapping[str, Any]) -> str:
    """Write where something is fetched from, as PEP 508 does, without credentials."""
    url, _, fragment = without_credentials(str(noted["url"])).partition("#")
    if version_control := noted.get("vcs_info"):
        return f"{version_control['vcs']}+{url}@{version_control['commit_id']}" + (
            f"#subdirectory={noted['subdirectory']}" if noted.get("subdirectory") else ""
        )
    parts = [part for part in fragment.split("&") if part and not part.startswith("subdirectory=")]
    if noted.get("subdirectory"):
        parts.append(f"subdirectory={noted['subdirectory']}")
    if (sha256 := _sha256(noted)) and not any(part.startswith("sha256=") for part in parts):
        parts.append(f"sha256={sha256}")
    return url + (f"#{'&'.join(parts)}" if parts else "")


def _sha256(noted: Mapping[str, Any]) -> str:
    archive = noted.get("archive_info") or {}
    told = (archive.get("hashes") or {}).get("sha256") or str(archive.get("hash") or "").removeprefix(
        "sha256="
    )
    fragment = urlsplit(str(noted["url"])).fragment
    told = told or next((part[7:] for part in fragment.split("&") if part.startswith("sha256=")), "")
    return told if re.fullmatch(r"[0-9a-f]{64}", told) else ""


def _listed(names: Sequence[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def canonical(name: str) -> str:
    """Write a distribution's name as PEP 503 does."""
    return re.sub(r"[-_.]+", "-", name).lower()
