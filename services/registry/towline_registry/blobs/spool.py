"""Uploads in progress: one local file each, which outlives stream, process and power cut."""

import fcntl
import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Final

from towline.errors import Unavailable
from towline_registry.blobs.durable import settle
from towline_registry.core.digests import Digest, hex_digits, named
from towline_registry.core.uploads import UploadKey, in_progress

__all__ = ["Spool", "SpooledUpload"]

_REHASH_BYTES: Final = 1024 * 1024


class SpooledUpload:
    """The file of one upload, held by one stream. Methods block; threads may call them.

    Args:
        path: The file.
        descriptor: Its open and locked descriptor, which this object closes.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        status = os.fstat(descriptor)
        self.size = status.st_size
        # The object store has the file too, by another name: nothing may be added to it any more.
        self.sealed = status.st_nlink > 1
        self._descriptor = descriptor
        self._hash = hashlib.sha256()
        # A cancelled call leaves its thread at work; the descriptor must not go while it writes.
        self._at_work = threading.Lock()
        self._closed = False

    def rehash(self) -> None:
        """Take the bytes that are already there into the digest."""
        for position in range(0, self.size, _REHASH_BYTES):
            with self._at_work:
                if self._closed:
                    return
                self._hash.update(os.pread(self._descriptor, _REHASH_BYTES, position))

    def append(self, data: bytes) -> None:
        """Write bytes at the end."""
        with self._at_work:
            if self._closed:
                return
            view = memoryview(data)
            while view:
                view = view[os.write(self._descriptor, view) :]
            self._hash.update(data)
            self.size += len(data)

    def settle(self) -> int:
        """Make what is there durable and give its size in bytes."""
        settle(self.path)
        settle(self.path.parent)
        return self.size

    def digest(self) -> Digest:
        """Give the digest of all bytes, those from before included."""
        return named(self._hash.hexdigest())

    def drop(self) -> None:
        """Remove the file."""
        self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of the file, once no thread writes to it any more."""
        with self._at_work:
            self._closed = True
            os.close(self._descriptor)


class Spool:
    """The folder of uploads in progress.

    Args:
        folder: Made if it is not there.

    Raises:
        Unavailable: It cannot be made; reason SPOOL_UNAVAILABLE.
    """

    def __init__(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise Unavailable(
                f"SPOOL_DIR: the folder {folder} cannot be made: {error.strerror}", reason="SPOOL_UNAVAILABLE"
            ) from error
        self._folder = folder

    @contextmanager
    def holding(self, key: UploadKey) -> Iterator[SpooledUpload]:
        """Hold the file of an upload for the block; it is made if it is not there.

        Raises:
            Unavailable: Another stream holds it; reason UPLOAD_IN_PROGRESS.
        """
        path = self._path(key)
        descriptor = _locked(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        if descriptor is None:
            raise in_progress(key)
        spooled = SpooledUpload(path, descriptor)
        try:
            yield spooled
        finally:
            spooled.close()

    def committed_size(self, key: UploadKey) -> int:
        """Make what is kept of an upload durable and give its size in bytes; 0 for an unknown one."""
        path = self._path(key)
        try:
            size = path.stat().st_size
            settle(path)
        except FileNotFoundError:
            return 0
        settle(self._folder)
        return size

    def drop(self, key: UploadKey) -> None:
        """Remove what is kept of an upload, unless a stream holds it."""
        _drop(self._path(key), lambda _: True)

    def drop_abandoned(self, older_than: timedelta) -> int:
        """Remove uploads nobody has written to for this long; give their number."""
        latest = time.time() - older_than.total_seconds()
        files = list(self._folder.glob("*.part"))
        return sum(_drop(path, lambda status: status.st_mtime < latest) for path in files)

    def _path(self, key: UploadKey) -> Path:
        return self._folder / f"{key.upload_id}-{hex_digits(key.digest)}.part"


def _drop(path: Path, condition: Callable[[os.stat_result], bool]) -> bool:
    try:
        descriptor = _locked(path, os.O_RDWR)
    except FileNotFoundError:
        return False
    if descriptor is None:
        return False
    try:
        if not condition(os.fstat(descriptor)):
            return False
        path.unlink()
        return True
    finally:
        os.close(descriptor)


def _locked(path: Path, flags: int) -> int | None:
    """Open a file and lock it, over processes; None where another one has the lock.

    The lock goes with the descriptor, so that a killed process leaves none behind.
    """
    while True:
        descriptor = os.open(path, flags, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        if os.fstat(descriptor).st_nlink:
            return descriptor
        os.close(descriptor)  # whoever held it has removed it meanwhile
