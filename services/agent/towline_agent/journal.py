"""What the agent keeps on disk: who it is, and each attempt from before its acceptance to its confirmation.

DATA_DIR/agent.lock                 held while an agent runs; its pid
DATA_DIR/agent.json                 instance id, count of starts
DATA_DIR/attempts/<run id>-<epoch>/ one attempt:
    grant    the Grant, before GrantReply is sent
    started  when its container was started
    stop     why and when it was told to end, before the stop signal is sent
    expired  the same by its watchdog, see deadlines.py
    exit     how and when its container ended, before anything about that is sent
    finish   the Finish, before it is sent
DATA_DIR/work/                      downloads and outputs on their way; emptied at each start
DATA_DIR/deadlines.json             see deadlines.py
"""

import fcntl
import json
import logging
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from google.protobuf.message import DecodeError

from towline.errors import AlreadyExists
from towline.v1 import leases_pb2
from towline_agent.core import records
from towline_agent.core.ownership import attempt_key
from towline_agent.core.stops import Exit, Signalled, StopReason
from towline_agent.deadlines import boottime, read_expired

__all__ = ["Identity", "Journal", "Record", "locked"]

_log = logging.getLogger(__name__)
_Read = TypeVar("_Read")


@dataclass(frozen=True)
class Identity:
    """Who this agent is, over restarts."""

    instance_id: str
    """Random, made with the data folder."""
    starts: int
    """How often an agent was started on this folder, this time included."""


@dataclass(frozen=True)
class Record:
    """One attempt as the journal has it."""

    grant: leases_pb2.Grant
    started_at: float | None
    signalled: Signalled | None
    """The stop signal that this agent's start before, or its watchdog, has sent."""
    exit: Exit | None
    finish: leases_pb2.Finish | None


@contextmanager
def locked(data_dir: Path) -> Iterator[None]:
    """Hold the data folder, making it if need be.

    Raises:
        AlreadyExists: Another agent holds it; the message has its pid.
    """
    data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (data_dir / "agent.lock").open("a+") as lock:
        if not _lock(lock.fileno()):
            lock.seek(0)
            raise AlreadyExists(
                f"an agent on {data_dir} is already running as pid {lock.read().strip() or 'unknown'}; "
                "stop it, or give this one another TOWLINE_AGENT_DATA_DIR",
                reason="ALREADY_RUNNING",
            )
        _write_pid(lock.fileno())
        yield


def _lock(descriptor: int) -> bool:
    """Take a lock, or tell that another agent has it: a watchdog that looks holds it for microseconds."""
    for pause_s in (0.02, 0.05, None):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if pause_s is not None:
                time.sleep(pause_s)
        else:
            return True
    return False


class Journal:
    """The files of an agent; every write but `started` is on disk when its method returns.

    Methods that write raise OSError where that fails.

    Args:
        data_dir: The agent's folder; the caller holds its lock.
        boot: Id of this boot of the machine.
    """

    def __init__(self, data_dir: Path, boot: str) -> None:
        self._root = data_dir
        self._boot = boot
        self._attempts = data_dir / "attempts"
        self._attempts.mkdir(exist_ok=True)
        self.work = data_dir / "work"
        """Folder for files that need not survive a restart."""
        self.work.mkdir(exist_ok=True)
        _empty(self.work)

    def start(self) -> Identity:
        """Count a start and return who the agent is."""
        file = self._root / "agent.json"
        kept = json.loads(file.read_text()) if file.exists() else {}
        identity = Identity(kept.get("instance_id") or str(uuid.uuid4()), kept.get("starts", 0) + 1)
        data = json.dumps({"instance_id": identity.instance_id, "starts": identity.starts}).encode()
        try:
            _write(file, data)
        except OSError:
            if not kept:
                raise
            # A full disk must not keep an agent from looking after its runs: the file has room for itself.
            with file.open("r+b") as stream:
                stream.write(data)
                stream.truncate()
        return identity

    def granted(self, grant: leases_pb2.Grant) -> None:
        """Keep a grant."""
        folder = self._folder(grant)
        folder.mkdir(exist_ok=True)
        _sync(self._attempts)
        _write(folder / "grant", grant.SerializeToString(deterministic=True))

    def started(self, grant: leases_pb2.Grant, at: float) -> None:
        """Keep when a container was started; only needed while the machine is up, so nothing waits."""
        file = self._folder(grant) / "started"
        if not file.exists():
            file.write_bytes(records.dump_started(at, self._boot))

    def stopping(self, grant: leases_pb2.Grant, signalled: Signalled) -> None:
        """Keep that a stop signal is about to be sent."""
        _write(self._folder(grant) / "stop", records.dump_stop(signalled, self._boot))

    def expired(self, grant: leases_pb2.Grant) -> Signalled | None:
        """Return the stop signal that the attempt's watchdog has sent, if it has."""
        found = read_expired(self._root, grant.spec.run, grant.epoch)
        if found is None:
            return None
        # A moment that is still to come was one of an earlier boot.
        at = found.at if found.at <= boottime() else -float("inf")
        return Signalled(StopReason.from_word(found.reason), at)

    def exited(self, grant: leases_pb2.Grant, exit: Exit) -> None:
        """Keep how a container ended."""
        _write(self._folder(grant) / "exit", records.dump_exit(exit, self._boot))

    def finished(self, grant: leases_pb2.Grant, finish: leases_pb2.Finish) -> None:
        """Keep a result."""
        _write(self._folder(grant) / "finish", finish.SerializeToString(deterministic=True))

    def forget(self, grant: leases_pb2.Grant) -> None:
        """Remove an attempt."""
        folder = self._folder(grant)
        # First what makes it an attempt: a crash amid the removal must not leave a grant without its result.
        (folder / "grant").unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)

    def records(self) -> list[Record]:
        """Return all attempts.

        One whose grant was not written whole was never accepted and is removed. What else cannot be read is
        as if it had never been written.
        """
        found = []
        for folder in sorted(self._attempts.iterdir()):
            grant = _read(folder / "grant", leases_pb2.Grant.FromString)
            if grant is None or attempt_key(grant.spec.run, grant.epoch) != folder.name:
                _log.warning("removing %s: it holds no whole grant", folder)
                shutil.rmtree(folder, ignore_errors=True)
                continue
            finish = _read(folder / "finish", leases_pb2.Finish.FromString)
            found.append(
                Record(
                    grant,
                    _read(folder / "started", lambda data: records.parse_started(data, self._boot)),
                    self._signalled(folder, grant),
                    _read(folder / "exit", lambda data: records.parse_exit(data, self._boot)),
                    finish if finish and finish.finish_id and finish.lease_id == grant.lease_id else None,
                )
            )
        return found

    def _signalled(self, folder: Path, grant: leases_pb2.Grant) -> Signalled | None:
        """Return the first signal, with the strongest reason that was given."""
        own = _read(folder / "stop", lambda data: records.parse_stop(data, self._boot))
        notes = [note for note in (own, self.expired(grant)) if note]
        if not notes:
            return None
        first = min(notes, key=lambda note: note.at)
        return replace(first, reason=max(note.reason for note in notes))

    def _folder(self, grant: leases_pb2.Grant) -> Path:
        return self._attempts / attempt_key(grant.spec.run, grant.epoch)


def _read(file: Path, parse: Callable[[bytes], _Read]) -> _Read | None:
    try:
        return parse(file.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, DecodeError) as error:
        _log.error("%s cannot be read and counts as not written: %s", file, error)
        return None


def _write_pid(lock: int) -> None:
    # It is for people: a full disk is no reason not to run.
    with suppress(OSError):
        os.ftruncate(lock, 0)
        os.write(lock, str(os.getpid()).encode())


def _empty(folder: Path) -> None:
    for left in folder.iterdir():
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def _write(file: Path, data: bytes) -> None:
    """Write so that after a crash the file is as before or as it should be."""
    partial = file.with_name(file.name + ".partial")
    try:
        with partial.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(file)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
    _sync(file.parent)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
