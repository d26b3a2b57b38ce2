"""What an interpreter says about itself; run in that interpreter, so standard library and Python 3.8 only.

python -c "$(cat probe.py)"        prints one JSON object
"""

from __future__ import annotations

import sys

if __name__ == "__main__" and sys.path and sys.path[0] == "":
    del sys.path[0]  # what lies in the working directory must not stand for the standard library

import json
import os
import platform
import sysconfig
from importlib import metadata
from pathlib import Path
from typing import Any


def describe(paths: list[str]) -> dict[str, Any]:
    """Tell version, platform and installed distributions, in the order in which imports would find them."""
    return {
        "version": platform.python_version(),
        "implementation": platform.python_implementation(),
        "platform": "-".join([platform.system(), platform.release(), platform.machine()]),
        "prefix": sys.prefix,
        "base_prefix": sys.base_prefix,
        "paths": [path for path in paths if Path(path).is_dir()],
        "scripts": sysconfig.get_path("scripts") or "",
        "data": sysconfig.get_path("data") or "",
        "conda": Path(sys.prefix, "conda-meta").is_dir(),
        "develop": _develop_links(paths),
        "distributions": [_facts(found) for found in metadata.distributions(path=paths)],
    }


def _facts(found: metadata.Distribution) -> dict[str, Any]:
    """Tell about one distribution; one that is damaged has no name."""
    place = str(getattr(found, "_path", ""))  # nothing public tells where its metadata are
    facts: dict[str, Any] = {"name": None, "version": None, "metadata": place}
    try:
        facts.update(
            root=str(found.locate_file("")),
            modified=Path(place).stat().st_mtime if place else 0.0,
            requires=found.requires or [],
            requested=found.read_text("REQUESTED") is not None,
            installer=(found.read_text("INSTALLER") or "").strip(),
            direct_url=json.loads(found.read_text("direct_url.json") or "null"),
            version=found.version,
            name=found.metadata["Name"],
        )
    except Exception:  # whatever somebody's half-removed package raises: the others are told
        facts["name"] = None
    return facts


def _develop_links(paths: list[str]) -> dict[str, str]:
    """Give the folders that `setup.py develop` has linked, by the name of the distribution."""
    links = {}
    for path in paths:
        try:
            for file in Path(path).glob("*.egg-link"):
                # The folder of the code, and from there that of setup.py.
                code, project = file.read_text(encoding="utf-8").splitlines()[:2]
                links[file.stem] = os.path.normpath(Path(code, project))
        except (OSError, ValueError):
            continue
    return links


if __name__ == "__main__":
    json.dump(describe(sys.path), sys.stdout)
