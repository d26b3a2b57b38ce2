"""Packages of a distribution that a project says it needs, and the platform that it was recorded on."""

import re
from pathlib import Path
from typing import Final, NamedTuple

from towline.requests.system import is_package

__all__ = ["FILES", "Listed", "image_platform", "of_project"]

FILES: Final = ("apt.txt", "packages.txt")
"""Files in the root of a project that list such packages, one a line, by preference."""

_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64", "ppc64le": "ppc64le", "s390x": "s390x"}


class Listed(NamedTuple):
    """System packages of a project."""

    packages: tuple[str, ...] = ()
    """In the order of their names."""
    notes: tuple[str, ...] = ()
    """Lines for people."""


def of_project(root: Path) -> Listed:
    """Read the packages that a file in a project's root lists; one that is no such list is left out."""
    for name in FILES:
        try:
            lines = (root / name).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError):
            continue
        words = [word for line in lines for word in line.partition("#")[0].split()]
        odd = next((word for word in words if not is_package(word)), None)
        if odd is not None:
            note = f"{name} is not taken as a list of system packages: {odd[:80]!r} is no name of one"
            return Listed(notes=(note,))
        if words:
            packages = tuple(sorted(set(words)))
            return Listed(packages, (f"system packages from {name}: {', '.join(packages)}",))
    return Listed()


def image_platform(machine: str) -> str:
    """Return the platform of images for a machine such as "Linux-6.1.0-x86_64"; empty: it has none."""
    words = re.split(r"[^A-Za-z0-9_]+", machine)
    found = next((_ARCHITECTURES[word] for word in words if word in _ARCHITECTURES), "")
    return f"linux/{found}" if found and words[0] == "Linux" else ""
