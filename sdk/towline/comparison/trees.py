"""What differs between two source trees, each an archive as snapshots are."""

import difflib
import hashlib
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from towline.comparison.specs import Kind

__all__ = ["File", "FileChange", "compare_trees"]

# A diff is for people to read; of larger files it is said that they differ.
MOST_TEXT_BYTES: Final = 512 * 1024
MOST_LINES: Final = 400
MOST_LINES_IN_ALL: Final = 4000
_PIECE: Final = 1024 * 1024


@dataclass(frozen=True)
class File:
    """One file or link of a tree."""

    digest: str
    """sha256 of its bytes, "sha256:" + 64 hex digits; of a link: where it leads, as "-> path"."""
    size_bytes: int
    executable: bool


class FileChange(NamedTuple):
    """One difference."""

    path: str
    kind: Kind
    before: File | None
    after: File | None
    diff: str
    """Unified diff of text files; empty for others, and where too much differs to be read."""


def compare_trees(before: Path, after: Path) -> list[FileChange]:
    """Give the files that differ, by path.

    Args:
        before: Uncompressed tar archive.
        after: Likewise.

    Raises:
        OSError: One cannot be read.
        tarfile.TarError: One is no archive.
    """
    with tarfile.open(before) as old, tarfile.open(after) as new:
        olds, news = dict(_files(old)), dict(_files(new))
        lines_left = MOST_LINES_IN_ALL
        changes = []
        for path in sorted({*olds, *news}):
            was, now = olds.get(path), news.get(path)
            if was == now:
                continue
            diff = ""
            if was is None or now is None or was.digest != now.digest:
                diff = _diff(path, _text(old, path, was), _text(new, path, now), lines_left)
            lines_left -= diff.count("\n")
            kind = Kind.ADDED if was is None else Kind.REMOVED if now is None else Kind.CHANGED
            changes.append(FileChange(path, kind, was, now, diff))
    return changes


def _files(tar: tarfile.TarFile) -> Iterator[tuple[str, File]]:
    for member in tar:
        if member.issym():
            yield member.name, File(f"-> {member.linkname}", 0, executable=False)
        elif member.isfile():
            yield member.name, File(_digest(tar, member), member.size, bool(member.mode & 0o100))


def _digest(tar: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    digest = hashlib.sha256()
    file = tar.extractfile(member)
    while file is not None and (piece := file.read(_PIECE)):
        digest.update(piece)
    return f"sha256:{digest.hexdigest()}"


def _text(tar: tarfile.TarFile, path: str, file: File | None) -> str | None:
    """Give a file's text, "" for one that is not there; None: it is no text, or too large."""
    if file is None:
        return ""
    if file.size_bytes > MOST_TEXT_BYTES:
        return None
    content = tar.extractfile(path) if file.digest.startswith("sha256:") else None
    if content is None:
        return f"{file.digest}\n"
    data = content.read()
    try:
        return None if b"\0" in data else data.decode()
    except UnicodeDecodeError:
        return None


def _diff(path: str, before: str | None, after: str | None, lines_left: int) -> str:
    if before is None or after is None:
        return ""
    old, new = before.splitlines(keepends=True), after.splitlines(keepends=True)
    lines = []
    for line in difflib.unified_diff(old, new, f"a/{path}", f"b/{path}"):
        lines.append(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n")
        if len(lines) > min(MOST_LINES, lines_left):
            return ""
    return "".join(lines)
