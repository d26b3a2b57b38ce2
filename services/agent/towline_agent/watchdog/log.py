"""DATA_DIR/watchdog.log: what a watchdog did, in bounded room."""

import os
import sys
import time
from pathlib import Path
from typing import Final

__all__ = ["Log"]

_LARGEST: Final = 256 * 1024


class Log:
    """Lines on standard error, which is the file; a full one becomes "watchdog.log.1".

    Args:
        path: The file; None: standard error is left where it goes.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._open()

    def __call__(self, line: str) -> None:
        """Write a line; one that cannot be written is lost and nothing else."""
        moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        try:
            if self._path and os.fstat(2).st_size > _LARGEST:
                self._path.replace(self._path.with_name(self._path.name + ".1"))
                self._open()
            sys.stderr.write(f"{moment} {line}\n")
            sys.stderr.flush()
        except OSError:
            return

    def _open(self) -> None:
        if self._path is None:
            return
        try:
            file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:  # a full disk, or a folder that is gone, must not end the watch
            return
        os.dup2(file, 2)
        os.close(file)
