"""Results of a run, by name."""

import json
import math
import os
import threading
import time
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import Any, Final

from towline.runtime.config import jsonable
from towline.runtime.saying import say
from towline.runtime.spool import read_object

__all__ = ["MOST_BYTES", "Summary"]

MOST_BYTES: Final = 64 * 1024
_EVERY_S: Final = 1.0


class Summary(MutableMapping[str, Any]):
    """Results by name, as JSON holds them: `run.summary["accuracy"] = 0.93`.

    They are written at once where nothing was written in the last second, else within a second and when the
    program ends; a loop that sets them often costs nothing. Values are what JSON holds, nested as deep as you
    like; NumPy's scalars and arrays, paths and enums are converted, and NaN and infinity become text. What
    cannot be kept (anything else, or more than 64 KiB in all) is told in one line and changes nothing.

    Args:
        file: Where they are written, as one JSON object, replaced as a whole; None: nowhere. What is in it
            already, of a program before this one in the same run, stays.
    """

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._values: dict[str, Any] = read_object(file) if file else {}
        self._pid = os.getpid()
        self._written = b""
        self._written_at = -math.inf
        self._later: threading.Timer | None = None
        self._writing = threading.RLock()
        self._told: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __setitem__(self, name: str, value: Any) -> None:
        try:
            self._values.update(jsonable({name: value}))
        except Exception:  # whatever the value's own code raises
            self._tell_once(
                f"JSON cannot hold the result {name!r}, of type {type(value).__name__}; it is not kept"
            )
            return
        self._changed()

    def __delitem__(self, name: str) -> None:
        del self._values[name]
        self._changed()

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"Summary({self._values!r})"

    def flush(self) -> None:
        """Write what there is now; never raises. In a forked child nothing happens."""
        if self._file is None or os.getpid() != self._pid:
            return
        with self._writing:
            if self._later is not None:
                self._later.cancel()
                self._later = None
            self._write(self._file)

    def _changed(self) -> None:
        if self._file is None or self._later is not None or os.getpid() != self._pid:
            return
        wait = self._written_at + _EVERY_S - time.monotonic()
        if wait <= 0:
            self.flush()
            return
        later = threading.Timer(wait, self.flush)
        later.daemon = True
        self._later = later
        try:
            later.start()
        except RuntimeError:  # no more threads, or the interpreter ends: the end writes
            self._later = None

    def _write(self, file: Path) -> None:
        self._written_at = time.monotonic()
        try:
            data = self._data()
            if len(data) > MOST_BYTES:
                self._tell_once(f"the results are {len(data)} bytes of JSON, more than {MOST_BYTES}")
                return
            if data == self._written:
                return
            new = file.with_name(f"{file.name}.{self._pid}")
            new.write_bytes(data)
            new.replace(file)
            self._written = data
        except FileNotFoundError:  # nothing is recorded any more, and that was said
            return
        except Exception as error:  # a full disk, or what was put inside a result since
            self._tell_once(f"the results are not written: {type(error).__name__}: {error}")

    def _data(self) -> bytes:
        values = dict(self._values)
        try:
            return json.dumps(values, allow_nan=False).encode()
        except (TypeError, ValueError):  # something was put into a nested result
            return json.dumps(jsonable(values), allow_nan=False).encode()

    def _tell_once(self, line: str) -> None:
        if line not in self._told:
            self._told.add(line)
            say(line)
