"""The process that brings an artifact version into this machine's cache for `run.use_artifact`.

It reads one JSON object from standard input and writes one to standard output: the version and the folder of
its files, or an error. The folder appears as a whole, its files are read-only: programs share it. Root can
write to them all the same, so each use looks whether they are as they were left, and brings back what is not.
"""

import fcntl
import json
import os
import re
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from towline.errors import DeadlineExceeded, TowlineError, Unavailable

__all__ = ["main"]


def main() -> None:
    """Fetch one version; exits with 0 whatever becomes of it."""
    asked = json.load(sys.stdin)
    sys.path.extend(path for path in asked["paths"] if path not in sys.path)
    answer: dict[str, Any]
    try:
        answer = _fetch(asked)
    except TowlineError as error:
        answer = {"error": {"kind": type(error).__name__, "reason": error.reason, "message": error.message}}
    except OSError as error:
        problem = f"{asked['cache']} cannot keep the artifact: {error}; set TOWLINE_CACHE_DIR to another"
        answer = {"error": {"kind": "FailedPrecondition", "reason": "CACHE_FAILED", "message": problem}}
    json.dump(answer, sys.stdout)


def _fetch(asked: Mapping[str, Any]) -> dict[str, Any]:
    cache = Path(asked["cache"])
    try:
        name, folder = _current(asked["artifact"], cache)
    except (Unavailable, DeadlineExceeded):
        link = cache / asked["artifact"].replace("/versions/", "/")
        if not (re.search(r"/v\d+$", asked["artifact"]) and _is_intact(link.resolve())):  # an alias may move
            raise
        name, folder = asked["artifact"], link.resolve()
    return {"artifact": name, "folder": str(folder)}


def _current(artifact: str, cache: Path) -> tuple[str, Path]:
    """Give a version as the registry has it now, and the folder of its files.

    The folder is that of the content: another registry may have other files under the same name.
    """
    from towline.client import Client  # noqa: PLC0415 - found on the program's paths
    from towline.names import ArtifactVersionName, split_version  # noqa: PLC0415 - likewise

    with Client() as client:
        found = client.artifacts.get(artifact)
        parent, version = split_version(ArtifactVersionName(found.name))
        digest = found.digest.removeprefix("sha256:")
        folder = cache / "contents" / digest
        if not _is_intact(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
            # Several programs may want it at once: one downloads, the others wait. What it leaves when it is
            # interrupted is what the next one goes on with.
            with folder.with_name(f".{digest}.lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                if not _is_intact(folder):
                    # In place, as programs may be reading it: each file that differs is replaced as a whole.
                    part = folder if folder.is_dir() else folder.with_name(f".{digest}.part")
                    files = client.artifacts.download(found.name, part).files
                    _protect(part)
                    _note(folder, part, (file.path for file in files))
                    if part != folder:
                        part.rename(folder)
        _point(cache / parent / version, folder)
        return found.name, folder


def _notes(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.files.json")


def _note(folder: Path, part: Path, paths: Iterable[str]) -> None:
    """Remember how the files looked when they had been checked."""
    notes = _notes(folder)
    new = notes.with_name(f"{notes.name}.new")
    new.write_text(json.dumps({path: _look(part / path) for path in paths}))
    new.replace(notes)


def _is_intact(folder: Path) -> bool:
    """Say whether the folder is there and nobody has written to its files; what lies beside them may stay."""
    try:
        noted = json.loads(_notes(folder).read_bytes())
        return folder.is_dir() and all(_look(folder / path) == look for path, look in noted.items())
    except (OSError, ValueError):
        return False


def _look(path: Path) -> list[int]:
    status = path.lstat()
    return [status.st_size, status.st_mtime_ns]


def _point(link: Path, folder: Path) -> None:
    """Remember which content a version has, for when no registry can be asked."""
    if link.is_symlink() and link.readlink() == folder:
        return
    new = link.with_name(f".{link.name}.{os.getpid()}")
    with suppress(OSError):
        link.parent.mkdir(parents=True, exist_ok=True)
        new.symlink_to(folder)
        try:
            new.replace(link)
        finally:
            new.unlink(missing_ok=True)


def _protect(folder: Path) -> None:
    for place in folder.rglob("*"):
        if place.is_file():
            place.chmod(place.stat().st_mode & ~0o222)
