"""The Python environment a program runs in."""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from towline.capture import editables, imports, probe, system, system_packages, wheels
from towline.capture.indexes import extra_index_urls, indexes_of
from towline.capture.locks import Lock
from towline.capture.requirements import Distribution, Selection, select
from towline.capture.system import System
from towline.capture.wheels import WheelFile
from towline.errors import InvalidArgument

__all__ = ["Environment", "Inspection", "ask", "describe_own", "inspect"]

_TIMEOUT_S: Final = 60
_SOURCE: Final = Path(probe.__file__)


@dataclass(frozen=True)
class Environment:
    """An interpreter and what is installed for it. Call `close` to remove its wheels from this machine."""

    version: str
    """Of CPython, "X.Y.Z"."""
    platform: str
    requirements: tuple[str, ...]
    extra_index_urls: tuple[str, ...]
    warnings: tuple[str, ...]
    """Lines for people."""
    wheels: tuple[WheelFile, ...] = ()
    """In a temporary folder."""
    editables: tuple[str, ...] = ()
    """Folders of the source tree."""
    lock: Lock | None = None
    complete: bool = False
    """Whether nothing else is installed, not even what one of these may need."""
    system: System = field(default_factory=System)
    system_packages: tuple[str, ...] = ()
    """Of the distribution, in order."""

    def close(self) -> None:
        """Remove the wheels."""
        for folder in {wheel.path.parent for wheel in self.wheels}:
            shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class Inspection:
    """What an interpreter has told, judged; the snapshot of the source comes next."""

    facts: Mapping[str, Any]
    source_root: Path
    selection: Selection
    placed: editables.Placed = field(default_factory=editables.Placed)
    lock: Lock | None = None

    @property
    def added(self) -> Mapping[str, Path]:
        """Folders that the snapshot needs besides the source tree, by their place in it."""
        return self.placed.added

    def environment(self, paths: Set[str]) -> Environment:
        """Make the environment of a snapshot.

        Args:
            paths: What is in the snapshot, relative to its root.

        Raises:
            InvalidArgument: A file of the lock is not in the snapshot.
            OSError: A wheel cannot be written.
        """
        lock = self.lock
        if lock and (missing := sorted(lock.files - paths)):
            raise InvalidArgument.field(
                "lock", f"{missing[0]} is left out of the snapshot; see that no ignore file names it"
            )
        made, problems = self._wheels()
        folders = tuple(sorted(set(lock.editables))) if lock else self.placed.in_snapshot(paths)
        version, platform = self.facts["version"].rstrip("+"), self.facts["platform"]
        requirements = lock.requirements if lock else self.selection.requirements
        indexes = extra_index_urls(os.environ, self.source_root, self.facts["prefix"])
        listed = system_packages.of_project(self.source_root)
        warnings = [*self.selection.warnings, *self.placed.warnings, *problems, *listed.notes]
        if self.facts["implementation"] != "CPython":
            warnings.append(f"{self.facts['implementation']} is replaced by CPython {version}")
        return Environment(
            version=(lock.python if lock else "") or version,  # "3.13.0+" is a build between two releases
            platform=platform,
            requirements=tuple(requirements),
            extra_index_urls=tuple(
                dict.fromkeys([*(lock.extra_index_urls if lock else ()), *indexes, *indexes_of(requirements)])
            ),
            warnings=(*warnings, *(lock.warnings if lock else ())),
            wheels=made,
            editables=folders,
            lock=lock,
            # Elsewhere some requirements have needs that they do not have here.
            complete=lock is None and platform.startswith("Linux"),
            system=system.look(self.facts),
            system_packages=listed.packages,
        )

    def _wheels(self) -> tuple[tuple[WheelFile, ...], list[str]]:
        if not self.selection.local:
            return (), []
        layout = wheels.Layout(Path(self.facts["scripts"]), Path(self.facts["data"]))
        folder = Path(tempfile.mkdtemp(prefix="towline-wheels-"))
        try:
            made, problems = wheels.collect(self.selection.local, layout, folder)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        if not made:
            folder.rmdir()
        return made, problems


def inspect(facts: Mapping[str, Any], source_root: Path, lock: Lock | None = None) -> Inspection:
    """Judge what `ask` or `describe_own` tells; see `select` for what is left out.

    Args:
        facts: What the interpreter told.
        source_root: Folder of the source tree.
        lock: The project's own lock; what is installed does not matter then.
    """
    if lock is not None:
        return Inspection(facts, source_root, Selection(), lock=lock)
    told = [(Distribution.of(each), Path(each["metadata"]).name) for each in facts["distributions"]]
    found = [distribution for distribution, _ in told if distribution is not None]
    selection = select(found, source_root, develop=facts["develop"], conda=facts["conda"])
    if damaged := [name for read, name in told if read is None and not name.startswith("~")]:
        selection.warnings.append(
            f"left out what is not installed as a whole: {', '.join(damaged)}; install it again"
        )
    selection.warnings += imports.warnings(facts, source_root, found)
    return Inspection(facts, source_root, selection, editables.place(selection.editables, source_root))


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
