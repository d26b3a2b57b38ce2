"""Folders that a program imports from without anything being installed there."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import towline
from towline.capture.requirements import Distribution

__all__ = ["warnings"]

_SITES: Final = frozenset({"site-packages", "dist-packages"})


def warnings(facts: Mapping[str, Any], source_root: Path, found: Iterable[Distribution]) -> list[str]:
    """Name the folders of sys.path that will not be in a container, one line for people each.

    Args:
        facts: What the interpreter told; see `towline.capture.probe`.
        source_root: Folder of the source tree.
        found: All that is installed; projects in editable mode are dealt with elsewhere.
    """
    editable = [folder for each in found if (folder := each.editable_folder)]
    linked = [Path(folder) for folder in facts["develop"].values()]
    # The interpreter's own, and what Towline itself is run from.
    known = [Path(facts["prefix"]), Path(facts["base_prefix"]), Path(towline.__file__).parents[1]]
    inside = [folder.resolve() for folder in (source_root, *editable, *linked, *known)]
    left = [
        path
        for path in dict.fromkeys(facts["paths"])
        if _SITES.isdisjoint(Path(path).parts)
        and not any(Path(path).resolve().is_relative_to(folder) for folder in inside)
        and _has_modules(Path(path))
    ]
    return [
        f"modules in {path} are found by PYTHONPATH or a .pth file, and left out; install them, or copy them "
        "into the source tree"
        for path in left
    ]


def _has_modules(folder: Path) -> bool:
    return next(folder.glob("*.py"), None) is not None or next(folder.glob("*/__init__.py"), None) is not None
