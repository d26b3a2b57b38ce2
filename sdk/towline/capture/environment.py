"""The Python environment a program runs in."""

import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from towline.capture import probe
from towline.capture.indexes import extra_index_urls
from towline.capture.requirements import Distribution, select
from towline.errors import InvalidArgument

__all__ = ["Environment", "ask", "describe_own", "environment_of"]

_TIMEOUT_S: Final = 60
_SOURCE: Final = Path(probe.__file__)


@dataclass(frozen=True)
class Environment:
    """An interpreter and what is installed for it."""

    version: str
    """Of CPython, "X.Y.Z"."""
    platform: str
    requirements: tuple[str, ...]
    extra_index_urls: tuple[str, ...]
    warnings: tuple[str, ...]
    """Lines for people."""


def environment_of(facts: Mapping[str, Any], source_root: Path) -> Environment:
    """Make the environment of what `ask` or `describe_own` tells; see `select` for what is left out."""
    found = [Distribution.of(distribution) for distribution in facts["distributions"]]
    selection = select((each for each in found if each is not None), source_root)
    warnings = []
    if selection.left_out:
        warnings.append(
            "left out what was installed from this machine's disk, and is not in the source tree: "
            + ", ".join(selection.left_out)
        )
    if facts["implementation"] != "CPython":
        warnings.append(f"{facts['implementation']} is replaced by CPython {facts['version']}")
    return Environment(
        version=facts["version"].rstrip("+"),  # "3.13.0+" is a build between two releases
        platform=facts["platform"],
        requirements=tuple(selection.requirements),
        extra_index_urls=tuple(extra_index_urls(os.environ)),
        warnings=tuple(warnings),
    )


def describe_own(paths: list[str]) -> dict[str, Any]:
    """Describe this interpreter, with the given sys.path."""
    return probe.describe(paths)


def ask(interpreter: Path, cwd: Path) -> dict[str, Any]:
    """Have another interpreter describe itself; InvalidArgument if it cannot."""
    try:
        done = subprocess.run(
            [interpreter, "-c", _SOURCE.read_text(encoding="utf-8")],
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_TIMEOUT_S,
            check=True,
        )
        facts: dict[str, Any] = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        said = getattr(error, "stderr", None) or b""
        detail = said.decode(errors="replace").strip() or str(error)
        raise InvalidArgument.field(
            "command", f"{interpreter} does not run as Python 3.8 or later: {detail}"
        ) from error
    return facts
