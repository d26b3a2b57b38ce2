"""What an interpreter says about itself; run in that interpreter, so standard library and Python 3.8 only.

python -c "$(cat probe.py)"        prints one JSON object
"""

from __future__ import annotations

import sys

if __name__ == "__main__" and sys.path and sys.path[0] == "":
    del sys.path[0]  # what lies in the working directory must not stand for the standard library

import json
import platform
from importlib import metadata
from typing import Any


def describe(paths: list[str]) -> dict[str, Any]:
    """Tell version, platform and installed distributions, in the order in which imports would find them."""
    return {
        "version": platform.python_version(),
        "implementation": platform.python_implementation(),
        "platform": "-".join([platform.system(), platform.release(), platform.machine()]),
        "distributions": [_facts(found) for found in metadata.distributions(path=paths)],
    }


def _facts(found: metadata.Distribution) -> dict[str, Any]:
    return {
        "name": found.metadata["Name"],
        "version": found.version,
        "requires": found.requires or [],
        "requested": found.read_text("REQUESTED") is not None,
        "installer": (found.read_text("INSTALLER") or "").strip(),
        "direct_url": json.loads(found.read_text("direct_url.json") or "null"),
    }


if __name__ == "__main__":
    json.dump(describe(sys.path), sys.stdout)
