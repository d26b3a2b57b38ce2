"""What the agent keeps on disk: who it is, and each attempt from before its acceptance to its confirmation.

DATA_DIR/agent.lock                       held while an agent runs; its pid
DATA_DIR/agent.json                       instance id, count of starts
DATA_DIR/attempts/<run id>-<epoch>/grant  the Grant, before GrantReply is sent
DATA_DIR/attempts/<run id>-<epoch>/finish the Finish, before it is sent
DATA_DIR/work/                            downloads and outputs on their way; emptied at each start
"""

import fcntl
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from google.protobuf.message import DecodeError

from towline.errors import AlreadyExists
from towline.v1 import leases_pb2
from towline_agent.core.containers import attempt_key

__all__ = ["Identity", "Journal", "Record", "locked"]


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
    finish: leases_pb2.Finish | None


@contextmanager
def locked(data_dir: Path) -> Iterator[None]:
    """Hold the data folder, making it if need be.

    Raises:
        AlreadyExists: Another agent holds it; the message has its pid.
    """
    data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (data_dir / "agent.lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise AlreadyExists(
                f"an agent on {data_dir} is already running as pid {lock.read().strip() or 'unknown'}; "
                "stop it, or give this one another TOWLINE_AGENT_DATA_DIR",
                reason="ALREADY_RUNNING",
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


class Journal:
    """The files of an agent; every write is on disk when its method returns.

    Args:
        data_dir: The agent's folder; the caller holds its lock.
    """

    def __init__(self, data_dir: Path) -> None:
        self._root = data_dir
        self._attempts = data_dir / "attempts"
        self._attempts.mkdir(exist_ok=True)
        self.work = data_dir / "work"
        """Folder for files that need not survive a restart."""
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir()

    def start(self) -> Identity:
        """Count a start and return who the agent is."""
        file = self._root / "agent.json"
        kept = json.loads(file.read_text()) if file.exists() else {}
        identity = Identity(kept.get("instance_id") or str(uuid.uuid4()), kept.get("starts", 0) + 1)
        _write(file, json.dumps({"instance_id": identity.instance_id, "starts": identity.starts}).encode())
        return identity

    def granted(self, grant: leases_pb2.Grant) -> None:
        """Keep a grant."""
        folder = self._folder(grant)
        folder.mkdir(exist_ok=True)
        _sync(self._attempts)
        _write(folder / "grant", grant.SerializeToString(deterministic=True))

    def finished(self, grant: leases_pb2.Grant, finish: leases_pb2.Finish) -> None:
        """Keep a result."""
        _write(self._folder(grant) / "finish", finish.SerializeToString(deterministic=True))

    def forget(self, grant: leases_pb2.Grant) -> None:
        """Remove an attempt."""
        shutil.rmtree(self._folder(grant), ignore_errors=True)

    def records(self) -> list[Record]:
        """Return all attempts; one whose grant was not written whole was never accepted and is removed."""
        found = []
        for folder in sorted(self._attempts.iterdir()):
            try:
                grant = leases_pb2.Grant.FromString((folder / "grant").read_bytes())
            except (OSError, DecodeError):
                shutil.rmtree(folder, ignore_errors=True)
                continue
            finish = folder / "finish"
            found.append(
                Record(grant, leases_pb2.Finish.FromString(finish.read_bytes()) if finish.exists() else None)
            )
        return found

    def _folder(self, grant: leases_pb2.Grant) -> Path:
        return self._attempts / attempt_key(grant.spec.run, grant.epoch)


def _write(file: Path, data: bytes) -> None:
    """Write so that after a crash the file is as before or as it should be."""
    partial = file.with_name(file.name + ".partial")
    with partial.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    partial.replace(file)
    _sync(file.parent)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
