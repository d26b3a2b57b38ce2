"""Digests of files that were computed before, by what the file system said of the files then.

A cache, and no more: what is wrong with it costs time, never an upload.
"""

import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

from towline.client.trees import Entry
from towline.runtime.environment import cache_folder

__all__ = ["KnownDigests"]

# A file that was written to so shortly before it was read may be written to again without its times telling:
# clocks of file systems tick every few milliseconds, those of some once in two seconds.
_RACY_NS: Final = 3_000_000_000
_MOST_BYTES: Final = 256 * 1024 * 1024
_WAIT_S: Final = 2.0
_VERSION: Final = 1

_TABLE: Final = """
CREATE TABLE IF NOT EXISTS digests (place BLOB PRIMARY KEY, stamp TEXT NOT NULL, digest BLOB NOT NULL)
WITHOUT ROWID
"""


class KnownDigests:
    """The digests that are known on this machine. Methods block; threads may call them.

    Args:
        file: Where they are kept; it is made if it is not there.
    """

    def __init__(self, file: Path | None = None) -> None:
        self._file = file or cache_folder() / f"digests-{_VERSION}.sqlite"

    def of(self, entries: Iterable[Entry]) -> dict[str, str]:
        """Give hexadecimal digests by path, of those files that nobody has written to since."""
        known: dict[str, str] = {}
        with _forgiving(), self._open() as database:
            for entry in entries:
                row = database.execute(
                    "SELECT digest FROM digests WHERE place = ? AND stamp = ?", _key(entry)
                ).fetchone()
                if row:
                    known[entry.path] = row[0].hex()
        return known

    def note(self, computed: Mapping[Entry, str], began_ns: int) -> None:
        """Keep hexadecimal digests of files.

        Args:
            computed: By file, as it was before and after it was read.
            began_ns: When the first of them was read, in nanoseconds of `time.time_ns`.
        """
        rows = [
            (*_key(entry), bytes.fromhex(digest))
            for entry, digest in computed.items()
            if max(entry.stamp.mtime_ns, entry.stamp.ctime_ns) < began_ns - _RACY_NS
        ]
        if not rows:
            return
        with _forgiving(), self._open() as database, database:
            if self._file.stat().st_size > _MOST_BYTES:
                database.execute("DELETE FROM digests")
            database.executemany("INSERT OR REPLACE INTO digests VALUES (?, ?, ?)", rows)

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        try:
            with closing(sqlite3.connect(self._file, timeout=_WAIT_S)) as database:
                database.execute("PRAGMA journal_mode = WAL")
                database.execute("PRAGMA synchronous = NORMAL")
                database.execute(_TABLE)
                yield database
        except sqlite3.OperationalError:
            raise  # in use by others for too long, or the disk is full: it is right next time
        except sqlite3.DatabaseError:
            self._file.unlink(missing_ok=True)
            raise


@contextmanager
def _forgiving() -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError):
        return


def _key(entry: Entry) -> tuple[bytes, str]:
    # As text: SQLite's integers are too short for the inodes of some file systems.
    return os.fsencode(entry.place), " ".join(map(str, entry.stamp))
