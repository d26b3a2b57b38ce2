"""Where the projects that are installed in editable mode lie in a source tree."""

import os
from collections.abc import Iterable, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from towline.capture.requirements import Editable

__all__ = ["PROJECT_FILES", "Placed", "place"]

_FOLDER: Final = ".towline/editables"
PROJECT_FILES: Final = ("pyproject.toml", "setup.py", "setup.cfg")
_ENVIRONMENT_MARKERS: Final = ("pyvenv.cfg", "conda-meta")


@dataclass
class Placed:
    """Projects by their place in the source tree, relative and "/"-separated; "." is its root."""

    inside: dict[str, str] = field(default_factory=dict)
    """Name of the distribution by the place of a project that lies in the tree already."""
    added: dict[str, Path] = field(default_factory=dict)
    """Folder of a project that lies elsewhere, by the place it gets."""
    warnings: list[str] = field(default_factory=list)
    """Lines for people."""

    def in_snapshot(self, paths: Set[str]) -> tuple[str, ...]:
        """Give the places whose projects are part of a snapshot; those that are not get a warning.

        Args:
            paths: What is in the snapshot, relative to its root.
        """
        found = []
        for place in sorted({*self.inside, *self.added}):
            prefix = "" if place == "." else f"{place}/"
            if any(f"{prefix}{name}" in paths for name in PROJECT_FILES):
                found.append(place)
            else:
                self.warnings.append(
                    f"the editable package {self.inside.get(place, Path(place).name)} is left out: the "
                    f"snapshot has no {prefix}{PROJECT_FILES[0]}; see that no ignore file names it"
                )
        return tuple(found)


def place(editables: Iterable[Editable], root: Path) -> Placed:
    """Find the place of each project in the source tree at `root`; one that lies elsewhere gets a new one."""
    placed = Placed()
    root = root.resolve()
    for editable in editables:
        folder = editable.folder.resolve()
        if not any((folder / name).is_file() for name in PROJECT_FILES):
            placed.warnings.append(
                f"{editable.name} is installed in editable mode from {folder}, where no project is now; "
                "it is left out"
            )
        elif folder in (Path("/"), Path(os.path.expanduser("~")).resolve()):  # noqa: PTH111 - never raises
            placed.warnings.append(
                f"{editable.name} is installed in editable mode from {folder}, no folder to take whole; "
                "put the project into a folder of its own"
            )
        elif folder.is_relative_to(root) and not _in_environment(folder, root):
            placed.inside[folder.relative_to(root).as_posix()] = editable.name
        else:
            placed.added[f"{_FOLDER}/{editable.name}"] = folder
    return placed


def _in_environment(folder: Path, root: Path) -> bool:
    """Say whether a folder of the tree lies in an installed environment, which is no source."""
    above = [folder, *folder.parents]
    between = above[: above.index(root)]
    return any((each / marker).exists() for each in between for marker in _ENVIRONMENT_MARKERS)
