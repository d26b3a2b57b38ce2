"""Blobs as files below a local folder, which survive a power cut. Methods block; threads may call them."""

import errno
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from towline_registry.blobs.durable import settle
from towline_registry.core.objects import BLOBS, ObjectKey

__all__ = ["Folder"]

# No link leads from one file system to another, and some have none.
_NO_LINK: Final = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP)


class Folder:
    """The folder.

    Args:
        root: Where it is.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        # Folders that are themselves durable entries of those above them; there are 256 at most.
        self._settled: set[Path] = set()

    def link(self, key: ObjectKey, source: Path) -> bool:
        """Have a file by another name, its bytes shared; False where its file system does not do that."""
        file = self._root / key
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source, file)
        except FileExistsError:
            return True  # done before: a key comes with one content
        except OSError as error:
            if error.errno not in _NO_LINK:
                raise
            return False
        return True

    def write(self, contents: Mapping[ObjectKey, bytes]) -> None:
        """Write files that survive a power cut once this returns.

        In place: nobody reads a file before it is recorded, which is later.
        """
        for inner in {(self._root / key).parent for key in contents}:
            inner.mkdir(parents=True, exist_ok=True)
        # All are written before the first is waited for, so that the disk gets them together.
        for key, data in contents.items():
            descriptor = os.open(self._root / key, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "wb", buffering=0) as file:
                view = memoryview(data)
                while view:
                    view = view[file.write(view) :]
        self.settle(contents)

    def settle(self, keys: Iterable[ObjectKey]) -> None:
        """Make files survive a power cut."""
        files = [self._root / key for key in keys]
        for file in files:
            settle(file)
        for inner in {file.parent for file in files}:
            if inner in self._settled:
                settle(inner)
            else:
                self._settle_above(inner)

    def read(self, keys: Sequence[ObjectKey]) -> list[bytes | None]:
        """Give the bytes of files; None for one that is not there."""
        return [self._read(self._root / key) for key in keys]

    def _read(self, file: Path) -> bytes | None:
        try:
            return file.read_bytes()
        except FileNotFoundError:
            return None

    def delete(self, keys: Iterable[ObjectKey]) -> None:
        """Remove files, if they are there."""
        for key in keys:
            (self._root / key).unlink(missing_ok=True)

    def inner_folders(self) -> list[Path]:
        """Give the folders that files are in."""
        return sorted(path for path in (self._root / BLOBS).glob("*/*") if path.is_dir())

    def put_before(self, inner: Path, moment: float) -> list[ObjectKey]:
        """Give the files of one of these folders that were put there before a moment, in seconds."""
        found: list[ObjectKey] = []
        with os.scandir(inner) as entries:
            for entry in entries:
                try:
                    # Not the time of its last write: an upload may have stood in the spool for days.
                    old = entry.stat(follow_symlinks=False).st_ctime < moment
                except FileNotFoundError:
                    continue
                if old:
                    found.append(ObjectKey(Path(entry.path).relative_to(self._root).as_posix()))
        return found

    def _settle_above(self, inner: Path) -> None:
        for above in (inner, *inner.parents):
            settle(above)
            if above == self._root:
                break
        self._settled.add(inner)
