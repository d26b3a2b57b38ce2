"""Records: all that a job is made of, in a folder on this machine, until the registry has it.

    record.json        what to make of it; written last
    lock               held by whoever works on it
    (archives, wheels, logged artifacts: at the paths that record.json names)

A record is made in the folder of the recording. Where the registry cannot be reached it is moved to the
folder of the records that wait, and `towline sync` sends it; it depends on nothing else of this machine.
"""

import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Self

from towline.errors import FailedPrecondition
from towline.runtime import environment, spool
from towline.runtime.endpoints import data_dir

__all__ = ["Logged", "Record", "Work", "keep", "kept", "offline_dir", "remove", "sweep"]

_VERSION: Final = 1
# A recording that is younger may be about to lock its folder.
_YOUNG_S: Final = 60.0
# A record that is being moved, or removed, for so long is not any more.
_HALF_S: Final = 24 * 3600.0


@dataclass(frozen=True)
class Logged:
    """An artifact that the program has logged."""

    folder: str
    """Of its files, relative to the record."""
    request_id: str
    name: str
    type: str
    aliases: list[str] = field(default_factory=list)
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Record:
    """What to make a job version of."""

    job: str
    spec: dict[str, Any]
    """The JobSpec, as protobuf writes it in JSON."""
    blobs: list[str]
    """Files to upload before, relative to the record."""
    logged: list[Logged]
    uses: list[str]
    """Artifact versions that the program has read."""
    author: str = ""
    failure: str = ""
    """How the program failed; empty: it did not."""
    recorded_at: float = 0.0
    """Seconds since the epoch."""

    def write(self, folder: Path) -> None:
        """Put it into its folder; from now on the folder is a record."""
        new = folder / f"{spool.RECORD}.new"
        new.write_text(json.dumps({"version": _VERSION, **asdict(self)}), encoding="utf-8")
        with new.open("rb") as file:
            os.fsync(file.fileno())
        new.replace(folder / spool.RECORD)

    @classmethod
    def read(cls, folder: Path) -> "Record":
        """Read the record of a folder.

        Raises:
            FailedPrecondition: It cannot be read, or is another Towline's; reason RECORD_UNREADABLE.
        """
        try:
            content: dict[str, Any] = json.loads((folder / spool.RECORD).read_bytes())
            if content.pop("version") != _VERSION:
                raise ValueError("it is of another version of Towline")
            logged = [Logged(**each) for each in content.pop("logged")]
            return cls(**content, logged=logged)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise FailedPrecondition(
                f"the record in {folder} cannot be read ({type(error).__name__}: {error}); remove it if you "
                "do not need it",
                reason="RECORD_UNREADABLE",
            ) from error


class Work:
    """The right to work on a record's folder, while in its `with` block.

    Raises:
        BlockingIOError: Somebody else has it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock: IO[str] | None = None

    def __enter__(self) -> Self:
        self._lock = (self._folder / spool.LOCK).open("a")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException:
            self._lock.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lock is not None:
            self._lock.close()


def offline_dir() -> Path:
    """Give the folder of the records that wait for `towline sync`."""
    named = os.environ.get(environment.OFFLINE_DIR)
    return Path(named).expanduser() if named else data_dir() / "offline"


def keep(folder: Path, record: Record) -> Path:
    """Move a record to those that wait; where that cannot be, it stays where it is. Return its place."""
    moment = time.strftime("%Y%m%d-%H%M%S", time.localtime(record.recorded_at))
    target = offline_dir() / f"{moment}-{record.job}-{folder.name[-8:]}"
    new = target.with_name(f".{target.name}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        shutil.copytree(folder, new) if _elsewhere(folder, target.parent) else folder.rename(new)
        new.rename(target)
    except OSError:
        shutil.rmtree(new, ignore_errors=True)
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    return target


def _elsewhere(folder: Path, parent: Path) -> bool:
    return folder.stat().st_dev != parent.stat().st_dev


def kept() -> list[Path]:
    """List the folders of all records on this machine that wait, oldest first."""
    folders = [folder for folder in offline_dir().glob("[!.]*") if folder.is_dir()]
    found = []
    for folder in (*folders, *_spools()):
        try:
            found.append(((folder / spool.RECORD).stat().st_mtime, folder))
        except OSError:  # no record, or just sent
            continue
    return [folder for _, folder in sorted(found)]


def _spools() -> Iterator[Path]:
    """List the folders of recordings of this person, alive or not."""
    for parent in spool.folders():
        try:
            found = list(parent.glob(f"{spool.PREFIX}*"))
        except OSError:
            continue
        for folder in found:
            try:
                if folder.lstat().st_uid == os.getuid() and folder.is_dir():
                    yield folder
            except OSError:
                continue


def remove(folder: Path) -> None:
    """Remove a record that is sent."""
    (folder / spool.RECORD).unlink(missing_ok=True)  # first, so that what is left of it is no record
    shutil.rmtree(folder, ignore_errors=True)


def sweep() -> int:
    """Remove what recorders that were killed have left; return how many finished records were kept."""
    saved = 0
    for folder in _spools():
        try:
            if _age_s(folder) < _YOUNG_S:
                continue
            with Work(folder):
                if (folder / spool.RECORD).is_file():
                    saved += keep(folder, Record.read(folder)) != folder
                else:
                    shutil.rmtree(folder, ignore_errors=True)
        except (OSError, FailedPrecondition):  # at work, or gone already
            continue
    for folder in offline_dir().glob("*"):
        try:
            half = folder.name.startswith(".") or not (folder / spool.RECORD).is_file()
            if half and _age_s(folder) > _HALF_S:
                shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            continue
    return saved


def _age_s(folder: Path) -> float:
    return time.time() - folder.stat().st_mtime
