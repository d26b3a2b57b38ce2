"""DATA_DIR/watchdog.lock: one watchdog a data folder; and whether an agent holds agent.lock."""

import fcntl
import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

__all__ = ["Holder", "held", "holder", "taken"]

_ASK_EVERY_S: Final = 0.01
_PATIENCE_S: Final = 10.0


@dataclass(frozen=True)
class Holder:
    """The watchdog that holds the lock."""

    pid: int
    version: str
    """Towline's version when it was started."""
    engine: str
    """URL of its engine."""


def held(file: Path) -> bool:
    """Tell whether a process holds a lock file; an absent one is held by nobody."""
    try:
        with file.open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def holder(file: Path) -> Holder | None:
    """Return the watchdog that holds a lock file, if one does."""
    if not held(file):
        return None
    try:
        read = json.loads(file.read_bytes())
        found = Holder(int(read["pid"]), str(read["version"]), str(read["engine"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    # Between locking and writing the file names the holder before, whose pid may be another program's now.
    return found if _is_watchdog(found.pid) else None


@contextmanager
def taken(file: Path, release: str, engine: str) -> Iterator[None]:
    """Hold the lock file; a watchdog that has it is asked to leave, and killed if it does not.

    Raises:
        TimeoutError: Something else holds it.
    """
    with file.open("a+") as lock:
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                late = time.monotonic() - deadline
                if late > _PATIENCE_S / 2:
                    raise TimeoutError(f"{file} is held by a process that does not leave") from None
                if found := holder(file):
                    _send(found.pid, signal.SIGKILL if late > 0 else signal.SIGTERM)
                time.sleep(_ASK_EVERY_S)
        lock.truncate(0)
        lock.write(json.dumps(asdict(Holder(os.getpid(), release, engine))))
        lock.flush()
        yield


def _is_watchdog(pid: int) -> bool:
    try:
        return b"towline_agent.watchdog" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def _send(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
