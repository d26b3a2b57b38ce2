"""What a supervisor writes down so that the next one, or `down`, can go on after a crash."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from towline.embedded.layout import Layout
from towline.embedded.processes import ProcessId, boot_id
from towline.errors import FailedPrecondition

__all__ = ["State", "StateFile", "owning", "write_atomically"]


@dataclass(frozen=True)
class State:
    """Processes of one data folder, and the addresses of its services."""

    supervisor: ProcessId | None = None
    processes: dict[str, ProcessId] = field(default_factory=dict)
    """By name: "postgres", "registry", "queue", "agent"."""
    drained: tuple[str, ...] = ()
    """Names of those that have left as they were asked to, and stay away until the next start."""
    addresses: dict[str, str] = field(default_factory=dict)
    """ "host:port" by service; kept after the end, so that the next start takes the same ports."""

    def leftovers(self) -> dict[str, ProcessId]:
        """Give the recorded processes that still run."""
        return {name: process for name, process in self.processes.items() if process.alive()}


class StateFile:
    """The state on disk. Only the owner of the folder's lock writes it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._state = _read(path)

    @property
    def now(self) -> State:
        """The state as last written or read."""
        return self._state

    def started(self, name: str, process: ProcessId) -> None:
        """Record a process."""
        drained = tuple(other for other in self._state.drained if other != name)
        processes = self._state.processes | {name: process}
        self._write(replace(self._state, processes=processes, drained=drained))

    def left(self, name: str) -> None:
        """Record that a process was drained and has left."""
        self._write(replace(self._state, drained=(*self._state.drained, name)))

    def ended(self, name: str) -> None:
        """Forget a process."""
        rest = {other: process for other, process in self._state.processes.items() if other != name}
        self._write(replace(self._state, processes=rest))

    def listening(self, addresses: dict[str, str]) -> None:
        """Record where the services listen."""
        self._write(replace(self._state, addresses=addresses))

    def supervised_by(self, supervisor: ProcessId | None) -> None:
        """Record who looks after the processes; each starts all, whoever was drained before."""
        self._write(replace(self._state, supervisor=supervisor, drained=()))

    def _write(self, state: State) -> None:
        self._state = state
        write_atomically(self._path, json.dumps({"boot_id": boot_id(), **asdict(state)}, indent=2) + "\n")


def _read(path: Path) -> State:
    try:
        content = json.loads(path.read_text())
        addresses: dict[str, str] = content["addresses"]
        if content["boot_id"] != boot_id():  # of an earlier boot: those pids are somebody else's now
            return State(addresses=addresses)
        supervisor = content["supervisor"]
        return State(
            supervisor=ProcessId(**supervisor) if supervisor else None,
            processes={name: ProcessId(**process) for name, process in content["processes"].items()},
            drained=tuple(content.get("drained", ())),
            addresses=addresses,
        )
    except FileNotFoundError:
        return State()
    except (ValueError, KeyError, TypeError) as error:
        raise FailedPrecondition(
            f"{path} is damaged ({error}); end the processes of this folder by hand and delete the file",
            reason="STATE_DAMAGED",
        ) from error


@contextmanager
def owning(layout: Layout) -> Iterator[bool]:
    """Hold the folder's lock during the block; False if a living supervisor has it.

    The kernel drops the lock with the process that took it, so a crash leaves none behind.
    """
    with layout.lock.open("r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def write_atomically(path: Path, text: str) -> None:
    """Write a file so that a reader sees all of it or what was there before."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.write_text(text)
    partial.replace(path)
