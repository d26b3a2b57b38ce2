"""The folder in which a recorded program leaves things for its recorder.

lock               held by the program and its recorder for as long as one of them lives
init.json          what the first `towline.init` below the recording was given
summary.json       the results, see `towline.runtime.summary`
artifacts/{n}/     what was logged, see `towline.runtime.artifacts`
uses.jsonl         which artifacts were read, one JSON object a line
record.json        the recorder's work, finished; see `towline.capture.records`
"""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from towline.runtime import environment

__all__ = [
    "ARTIFACTS",
    "INIT",
    "LOCK",
    "PREFIX",
    "RECORD",
    "SUMMARY",
    "USES",
    "Spool",
    "append_use",
    "folders",
    "read_object",
    "write_init",
]

PREFIX: Final = "towline-recording-"
LOCK: Final = "lock"
INIT: Final = "init.json"
SUMMARY: Final = "summary.json"
ARTIFACTS: Final = "artifacts"
USES: Final = "uses.jsonl"
RECORD: Final = "record.json"


class Spool:
    """The folder of one recording, new.

    Raises:
        OSError: No temporary folder takes it.
    """

    def __init__(self) -> None:
        import fcntl  # noqa: PLC0415 - where there is none, nothing else may fail

        self.path = _make()
        self.lock = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        """An open file; while any process has it, nobody sweeps the folder."""
        fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)

    @property
    def variables(self) -> dict[str, str]:
        """What processes below this one find the recording by."""
        return {
            environment.RECORDING: str(os.getpid()),
            environment.SPOOL: str(self.path),
            environment.SUMMARY: str(self.path / SUMMARY),
            environment.ARTIFACTS: str(self.path / ARTIFACTS),
        }

    def leave(self) -> None:
        """Let go of the folder; what becomes of it is the recorder's business."""
        if self.lock >= 0:
            os.close(self.lock)
            self.lock = -1


def folders() -> Iterator[Path]:
    """Give the folders that temporary files may lie in, the preferred ones first."""
    named = [os.environ.get(name, "") for name in ("TMPDIR", "TEMP", "TMP")]
    seen = dict.fromkeys([*filter(None, named), "/tmp", "/var/tmp"])  # noqa: S108 - with a name nobody guesses
    return (Path(folder).absolute() for folder in seen)


def _make() -> Path:
    problem: OSError | None = None
    for folder in folders():
        path = folder / f"{PREFIX}{os.urandom(8).hex()}"
        try:
            path.mkdir(mode=0o700)
        except OSError as error:
            problem = problem or error
        else:
            return path
    raise problem or FileNotFoundError("there is no temporary folder")


def write_init(spool: Path, content: Mapping[str, Any]) -> None:
    """Leave what the recording's first `towline.init` was given; a later one changes nothing.

    Raises:
        OSError: The folder is not there any more, or full.
    """
    new = spool / f"{INIT}.{os.getpid()}"
    new.write_text(json.dumps(content, allow_nan=False), encoding="utf-8")
    try:
        os.link(new, spool / INIT)
    except FileExistsError:
        pass
    finally:
        new.unlink()


def read_object(file: Path) -> dict[str, Any]:
    """Read a JSON object that a program has left; empty where there is none, or something else."""
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def append_use(spool: Path, use: Mapping[str, str]) -> None:
    """Note that an artifact was read; OSError where that cannot be."""
    line = json.dumps(use).encode() + b"\n"
    file = os.open(spool / USES, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.write(file, line)
    finally:
        os.close(file)
