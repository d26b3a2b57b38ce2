"""What is to be uploaded: the files of a folder, each one named that cannot be."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from towline.errors import FailedPrecondition, InvalidArgument
from towline.runtime.artifacts import is_utf8

__all__ = ["Entry", "Stamp", "changed", "entries_of"]

# As the registry bounds a manifest.
MOST_FILES: Final = 100_000
# In an error, so that it stays readable.
_MOST_NAMED: Final = 5

_Folder = tuple[int, int]


class Stamp(NamedTuple):
    """What a file system says of a file; other content shows in it, except within a tick of its clock."""

    size_bytes: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    device: int

    @classmethod
    def of(cls, status: os.stat_result) -> "Stamp":
        """Take it from a status."""
        return cls(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_dev)

    def same_content(self, other: "Stamp") -> bool:
        """Whether nobody has written in between; a link or a change of mode does not matter."""
        return self._replace(ctime_ns=0) == other._replace(ctime_ns=0)


class Entry(NamedTuple):
    """A file that is to be uploaded.

    Attributes:
        path: In the manifest: relative, "/"-separated.
        place: Where it is, absolute.
        stamp: As it was found.
        executable: Whether its owner may execute it.
    """

    path: str
    place: str
    stamp: Stamp
    executable: bool


def entries_of(source: Path) -> list[Entry]:
    """List the files below a folder, or a file alone, by path.

    Links to files and folders below the folder are followed; what leads out, what is no file and names that
    are not UTF-8 are refused.

    Raises:
        InvalidArgument: There is nothing, too much, or something that is refused; each is named.
    """
    try:
        status = source.stat()
    except OSError as error:
        raise InvalidArgument.field("source", f"{source} cannot be read: {error.strerror}") from None
    if stat.S_ISDIR(status.st_mode):
        walk = _Walk(os.path.realpath(source))
        entries = list(walk.entries(status))
        problems = walk.problems
    elif stat.S_ISREG(status.st_mode):
        entries, problems = [_entry(source.name, os.path.realpath(source), status)], []
    else:
        raise InvalidArgument.field("source", f"{source} is {_kind(status.st_mode)}, no folder and no file")
    problems += [
        f"{entry.path!r}: the name is not UTF-8; give it another one"
        for entry in entries
        if not is_utf8(entry.path)
    ]
    if problems:
        more = f"; and {len(problems) - _MOST_NAMED} more" if len(problems) > _MOST_NAMED else ""
        raise InvalidArgument.field("source", "; ".join(problems[:_MOST_NAMED]) + more)
    if len(entries) > MOST_FILES:
        raise InvalidArgument.field(
            "source", f"{len(entries)} files are too many; at most {MOST_FILES} are taken, pack them first"
        )
    return sorted(entries)


def changed(path: str, how: str) -> FailedPrecondition:
    """Say that a file is not what it was when the upload began."""
    return FailedPrecondition(
        f"{path!r} {how} while it was uploaded; upload again once nobody writes there",
        reason="FILE_CHANGED",
        metadata={"path": path.encode(errors="backslashreplace").decode()},
    )


class _Walk:
    """One walk below a folder.

    Args:
        root: The folder, without links in its path.
    """

    def __init__(self, root: str) -> None:
        self._root = root
        self.problems: list[str] = []

    def entries(self, status: os.stat_result) -> Iterator[Entry]:
        """Give the files; `problems` has those that are refused then."""
        todo: list[tuple[str, tuple[_Folder, ...]]] = [("", (_folder(status),))]
        while todo:
            path, above = todo.pop()
            try:
                with os.scandir(os.path.join(self._root, path)) as found:  # noqa: PTH118 - many, and quick
                    children = list(found)
            except OSError as error:
                self._refuse(path, f"cannot be read: {error.strerror}")
                continue
            for child in children:
                below = f"{path}/{child.name}" if path else child.name
                child_status = self._status(child, below)
                if child_status is None:
                    continue
                if stat.S_ISREG(child_status.st_mode):
                    yield _entry(below, child.path, child_status)
                elif not stat.S_ISDIR(child_status.st_mode):
                    self._refuse(below, f"is {_kind(child_status.st_mode)}; leave it out")
                elif (folder := _folder(child_status)) in above:
                    self._refuse(below, "is a link to a folder that it lies in; leave it out")
                else:
                    todo.append((below, (*above, folder)))

    def _status(self, child: "os.DirEntry[str]", path: str) -> os.stat_result | None:
        """Look at what is there, behind links that stay in the folder; None: it is refused."""
        try:
            if child.is_symlink():
                target = os.path.realpath(child.path)
                if not target.startswith(f"{self._root}{os.sep}") and target != self._root:
                    self._refuse(path, f"is a link out of the folder, to {os.readlink(child.path)!r}")  # noqa: PTH115 - no Path at hand
                    return None
            return child.stat()
        except OSError as error:
            self._refuse(path, f"cannot be read: {error.strerror}")
            return None

    def _refuse(self, path: str, why: str) -> None:
        self.problems.append(f"{path!r} {why}")


def _entry(path: str, place: str, status: os.stat_result) -> Entry:
    return Entry(path, place, Stamp.of(status), bool(status.st_mode & stat.S_IXUSR))


def _folder(status: os.stat_result) -> _Folder:
    return status.st_dev, status.st_ino


def _kind(mode: int) -> str:
    for test, kind in (
        (stat.S_ISDIR, "a folder"),
        (stat.S_ISFIFO, "a named pipe"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISCHR, "a device"),
        (stat.S_ISBLK, "a device"),
    ):
        if test(mode):
            return kind
    return "something special"
