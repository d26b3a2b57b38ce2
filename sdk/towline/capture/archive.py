"""Archives of source trees, written so that equal trees give equal bytes and holes in files stay holes."""

import errno
import os
import stat
import tarfile
from enum import Enum, auto
from pathlib import Path
from typing import IO, Final

__all__ = ["Archive", "Outcome"]

_PIECE: Final = 1024 * 1024
_TRIES: Final = 3
_POINTER: Final = b"version https://git-lfs.github.com/spec/v1\n"
# As the specification of Git LFS bounds them.
_POINTER_BYTES: Final = 1024


class Outcome(Enum):
    """What became of a file."""

    TAKEN = auto()
    POINTER = auto()
    """Taken; it is a pointer of Git LFS and not the content that it points at."""
    CHANGED = auto()
    """Taken, though it was written to meanwhile."""
    GONE = auto()
    """Not there any more, or no file any more."""
    UNSTEADY = auto()
    """Left out, as it became shorter each time it was read."""


class Archive:
    """An uncompressed tar archive: members owned by nobody, from the year 1970, with mode 644 or 755.

    Args:
        target: Empty file, open for writing; holes of the files put into the archive are holes in it.
    """

    def __init__(self, target: IO[bytes]) -> None:
        self._target = target

    def add_link(self, path: str, target: str) -> None:
        """Add a symbolic link."""
        member = tarfile.TarInfo(path)
        member.type, member.linkname, member.mode = tarfile.SYMTYPE, target, 0o644
        self._target.write(_header(member))

    def add_file(self, path: str, place: Path) -> Outcome:
        """Add a file in one state: one that is written to meanwhile is read again.

        Raises:
            OSError: It cannot be read, or the archive cannot be written; `target` is at fault if the error
                has no file name.
        """
        start = self._target.tell()
        try:
            for tries_left in reversed(range(_TRIES)):
                outcome = self._try(path, place)
                settled = outcome in (Outcome.TAKEN, Outcome.POINTER)
                if settled or (outcome is Outcome.CHANGED and not tries_left):
                    return outcome
                self._back_to(start)
                if outcome is Outcome.GONE:
                    break
        except OSError:
            self._back_to(start)
            raise
        return outcome

    def end(self) -> int:
        """Finish the archive and return its size in bytes."""
        self._target.write(bytes(2 * tarfile.BLOCKSIZE))
        self._target.flush()
        return self._target.tell()

    def _try(self, path: str, place: Path) -> Outcome:
        # Not to wait for a pipe's writer, nor to follow a link, that came in the file's place.
        try:
            source = os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            return Outcome.GONE
        try:
            before = os.fstat(source)
            if not stat.S_ISREG(before.st_mode):
                return Outcome.GONE
            member = tarfile.TarInfo(path)
            member.size = before.st_size
            member.mode = 0o755 if before.st_mode & stat.S_IXUSR else 0o644
            self._target.write(_header(member))
            pointer = before.st_size <= _POINTER_BYTES and _read(source, 0, len(_POINTER), place) == _POINTER
            whole = self._copy(source, before, place)
            self._target.write(bytes(-before.st_size % tarfile.BLOCKSIZE))
            after = os.fstat(source)
        finally:
            os.close(source)
        if not whole or after.st_size < before.st_size:
            return Outcome.UNSTEADY
        if (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
            return Outcome.CHANGED
        return Outcome.POINTER if pointer else Outcome.TAKEN

    def _copy(self, source: int, status: os.stat_result, place: Path) -> bool:
        """Copy as many bytes as a file had; False if it has become shorter."""
        size, base = status.st_size, self._target.tell()
        sparse = status.st_blocks * 512 < size
        at = 0
        while at < size:
            begin, end = _next_data(source, at, size) if sparse else (at, size)
            self._target.seek(base + begin)
            while begin < end:
                data = _read(source, begin, min(_PIECE, end - begin), place)
                if not data:
                    return False
                self._target.write(data)
                begin += len(data)
            at = end
        return True

    def _back_to(self, start: int) -> None:
        self._target.seek(start)
        self._target.truncate()


def _header(member: tarfile.TarInfo) -> bytes:
    # Names are the bytes that they are on disk, in UTF-8 or not, whatever this process takes them for.
    member.name, member.linkname = (
        os.fsencode(text).decode("utf-8", "surrogateescape") for text in (member.name, member.linkname)
    )
    return member.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def _read(source: int, at: int, size: int, place: Path) -> bytes:
    try:
        return os.pread(source, size, at)
    except OSError as error:  # a descriptor does not say whose it is
        raise OSError(error.errno, error.strerror, os.fspath(place)) from error


def _next_data(source: int, at: int, size: int) -> tuple[int, int]:
    """Give the next part of a file that is no hole; from its end on if there is none."""
    try:
        begin = os.lseek(source, at, os.SEEK_DATA)
        return min(begin, size), min(os.lseek(source, begin, os.SEEK_HOLE), size)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return size, size
        return at, size  # a file system that does not tell
