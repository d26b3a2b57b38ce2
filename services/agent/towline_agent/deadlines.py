"""DATA_DIR/deadlines.json: until when containers may run, told by the agent and enforced by its watchdog.

The agent replaces it on each renewal; a watchdog that finds it damaged or gone keeps to what it read
last, so no fault of the file can extend a lease. Standard library only: the watchdog imports this.
"""

import errno
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from towline_agent.core import deadlines
from towline_agent.core.deadlines import Deadline, Expired
from towline_agent.core.ownership import attempt_key

__all__ = ["Deadline", "Deadlines", "Expired", "boot_id", "boottime", "note_expired", "read_expired"]

_BLOCK: Final = 4096
_FULL: Final = {errno.ENOSPC, errno.EDQUOT}


def boottime() -> float:
    """Return seconds since boot, time asleep included: what leases are measured with."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def boot_id() -> str:
    """Return what tells this boot of the machine from all others."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


class Deadlines:
    """The file; one writes, another may read at the same time.

    Args:
        data_dir: The agent's folder.
        boot: See `boot_id`.
    """

    def __init__(self, data_dir: Path, boot: str | None = None) -> None:
        self.path = data_dir / "deadlines.json"
        self._boot = boot or boot_id()

    def write(self, entries: Iterable[Deadline]) -> None:
        """Replace all deadlines; what is not among them is not watched any more.

        It need not survive the machine, which takes the containers along, so nothing waits for the disk.

        Raises:
            OSError: It could not be written: what it said before is still in force.
        """
        data = deadlines.dump(self._boot, entries)
        # Blanks up to whole blocks: with a full disk the next version still has room in this one's.
        data = data.ljust(-(-len(data) // _BLOCK) * _BLOCK)
        partial = self.path.with_name(self.path.name + ".partial")
        try:
            partial.write_bytes(data)
            partial.replace(self.path)
        except OSError as error:
            partial.unlink(missing_ok=True)
            if error.errno not in _FULL:
                raise
            self._overwrite(data)

    def read(self) -> tuple[Deadline, ...] | None:
        """Return the deadlines of this boot; None: the file is absent or damaged and says nothing."""
        try:
            return deadlines.parse(self.path.read_bytes(), self._boot)
        except (OSError, ValueError):
            return None

    def _overwrite(self, data: bytes) -> None:
        """Write into the blocks that the file has: a full disk must not end runs that are well."""
        with self.path.open("r+b") as file:
            if os.fstat(file.fileno()).st_size < len(data):
                raise OSError(errno.ENOSPC, "the deadlines of leases do not fit on the disk", str(self.path))
            file.write(data.ljust(os.fstat(file.fileno()).st_size))


def note_expired(data_dir: Path, deadline: Deadline, at: float) -> None:
    """Note in an attempt's journal folder that its container is ended now; on disk when this returns.

    Raises:
        OSError: The folder is gone or cannot be written.
    """
    file = data_dir / "attempts" / deadline.key / "expired"
    partial = file.with_name("expired.partial")
    with partial.open("wb") as stream:
        stream.write(deadlines.dump_expired(Expired(deadline.reason, at)))
        stream.flush()
        os.fsync(stream.fileno())
    partial.replace(file)
    folder = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def read_expired(data_dir: Path, run: str, epoch: int) -> Expired | None:
    """Return why and when a watchdog ended an attempt's container; None: it did not."""
    try:
        return deadlines.parse_expired(
            (data_dir / "attempts" / attempt_key(run, epoch) / "expired").read_bytes()
        )
    except (OSError, ValueError):
        return None
