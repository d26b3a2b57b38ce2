"""Which volumes hold whole artifact versions: one small file each, written when a volume is whole.

DATA_DIR/inputs/<volume>.json holds digest and size; the file's time is when the volume was used last.
"""

import json
import logging
import os
from contextlib import suppress
from pathlib import Path

from towline_agent.core.inputs import Stored

__all__ = ["InputRecords"]

_log = logging.getLogger(__name__)


class InputRecords:
    """The files of a data folder; methods that write raise OSError where that fails.

    Args:
        folder: Where they are; made if need be.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self._folder = folder

    def read(self) -> list[Stored]:
        """Return what is on record; what cannot be read counts as not written."""
        found = []
        for file in self._folder.glob("*.json"):
            try:
                kept = json.loads(file.read_text())
                found.append(Stored(kept["digest"], kept["size"], file.stem, file.stat().st_mtime))
            except (OSError, ValueError, KeyError, TypeError) as error:
                _log.warning("%s cannot be read, its volume is filled again: %s", file, error)
        return found

    def write(self, stored: Stored) -> None:
        """Note that a volume is whole; after a crash of the machine it is whole, or not on record."""
        # The engine's files are in the kernel's cache, like those of every other process.
        os.sync()
        file = self._file(stored.volume)
        partial = file.with_suffix(".partial")
        with partial.open("w") as stream:
            json.dump({"digest": stored.digest, "size": stored.size}, stream)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(file)
        self.touch(stored)

    def touch(self, stored: Stored) -> None:
        """Note when a volume was used; a failure costs no more than its place among those that go."""
        with suppress(OSError):
            os.utime(self._file(stored.volume), (stored.used_at, stored.used_at))

    def forget(self, volume: str) -> None:
        """Remove a record, if it is there."""
        self._file(volume).unlink(missing_ok=True)

    def _file(self, volume: str) -> Path:
        return self._folder / f"{volume}.json"
