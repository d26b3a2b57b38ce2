"""Enforcing deadlines: what is read, what falls due, and how it is carried out."""

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from towline_agent.core.deadlines import Action, Deadline, Progress, due, next_due
from towline_agent.deadlines import Deadlines, note_expired, read_expired
from towline_agent.watchdog import processes
from towline_agent.watchdog.docker import Docker, Found, Silent

__all__ = ["Enforcement"]

# An engine that took SIGKILL and has the container running so long after does not do what it says.
_ENGINE_MAY_TAKE_S: Final = 2.0


@dataclass(frozen=True)
class _Known:
    """A container as it was when the engine answered last."""

    id: str
    visible: bool
    """Whether its processes can be seen from here, so that seeing none means that there are none."""


class Enforcement:
    """Stops and kills the containers of one data folder.

    Args:
        data_dir: The agent's folder.
        file: Its deadlines.
        engine: Where the containers are.
        log: Gets a line for what is done, or cannot be.
        clock: Seconds of CLOCK_BOOTTIME.
    """

    def __init__(
        self,
        data_dir: Path,
        file: Deadlines,
        engine: Docker,
        log: Callable[[str], None],
        clock: Callable[[], float],
    ) -> None:
        self._data_dir = data_dir
        self._file = file
        self._engine = engine
        self._log = log
        self._clock = clock
        self._version: tuple[int, ...] | None = None
        self._deadlines: tuple[Deadline, ...] = ()
        self._progress: dict[str, Progress] = {}
        self._known: dict[str, _Known] = {}
        self._said: dict[str, str] = {}

    @property
    def nothing_left(self) -> bool:
        """Tell whether no container runs that a deadline is for, as far as was looked."""
        return all(self._progress[one.key].absent_at is not None for one in self._deadlines)

    @property
    def next_due(self) -> float:
        """Return the next moment at which something falls due."""
        return next_due(self._deadlines, self._clock())

    def look(self) -> None:
        """Read the deadlines if they have changed; what cannot be read changes nothing."""
        version = self._stat()
        if version == self._version:
            return
        self._version = version
        read = self._file.read()
        if read is None:
            self._say(
                "file",
                f"{self._file.path} is {'damaged' if version else 'gone'}; "
                f"the {len(self._deadlines)} deadlines read last stay in force",
            )
            return
        self._said.pop("file", None)
        self._deadlines = read
        self._progress = {one.key: self._progress.get(one.key) or self._begun(one) for one in read}
        self._known = {key: known for key, known in self._known.items() if key in self._progress}
        self._said = {key: line for key, line in self._said.items() if key in self._progress}
        self._learn()

    def act(self) -> None:
        """Carry out all that is due."""
        for action in due(self._deadlines, self._progress, self._clock()):
            try:
                found = self._engine.inspect(action.deadline.container)
            except Silent as error:
                self._without_engine(action, str(error))
            else:
                self._with_engine(action, found)

    def survey(self) -> None:
        """Look which containers have ended by themselves: no agent is there to say so."""
        for deadline in self._deadlines:
            if self._progress[deadline.key].absent_at is not None:
                continue
            try:
                found = self._engine.inspect(deadline.container)
            except Silent:
                return
            if found is None or not found.running:
                self._absent(deadline)

    def _stat(self) -> tuple[int, ...] | None:
        try:
            found = os.stat(self._file.path)  # noqa: PTH116 - Path.stat builds more around it, twice a second
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size

    def _begun(self, deadline: Deadline) -> Progress:
        """Take up where a watchdog before this one left off."""
        noted = read_expired(self._data_dir, deadline.run, deadline.epoch)
        return Progress(signalled=noted is not None)

    def _learn(self) -> None:
        """Ask for ids of containers while the engine answers: without them it cannot be done without."""
        for deadline in self._deadlines:
            if deadline.key in self._known:
                continue
            try:
                found = self._engine.inspect(deadline.container)
            except Silent:
                return
            if found and found.running:
                self._remember(deadline, found)

    def _remember(self, deadline: Deadline, found: Found) -> None:
        self._known[deadline.key] = _Known(found.id, processes.is_in(found.pid, found.id))

    def _with_engine(self, action: Action, found: Found | None) -> None:
        deadline = action.deadline
        if found is None or not found.running:
            self._absent(deadline)
            return
        self._remember(deadline, found)
        self._note(deadline)
        try:
            self._engine.kill(found.id, action.signal)
        except Silent as error:
            self._without_engine(action, str(error))
            return
        self._say(deadline.key, f"{action.signal} to {deadline.container}: {deadline.reason}")
        self._signalled(deadline)
        if action.signal == "SIGKILL" and self._clock() >= deadline.kill_at + _ENGINE_MAY_TAKE_S:
            self._without_engine(action, "the engine took SIGKILL and has it running")

    def _without_engine(self, action: Action, why: str) -> None:
        deadline = action.deadline
        known = self._known.get(deadline.key) or _Known(deadline.container_id, visible=False)
        pids = processes.processes_of(known.id)
        if pids:
            self._note(deadline)
            self._say(
                deadline.key, f"{action.signal} to {deadline.container} by pid: {deadline.reason}; {why}"
            )
            if action.signal == "SIGKILL":
                processes.kill_all(known.id)
            else:
                for pid in processes.first_of(pids):
                    processes.send(pid, known.id, signal.Signals[action.signal])
            self._signalled(deadline)
        elif known.visible:
            self._absent(deadline)
        else:
            self._say(
                deadline.key,
                f"{deadline.container} is due for {action.signal} and cannot be reached: {why}, "
                f"and {'no process of it is seen from here' if known.id else 'its id is not known'}",
            )

    def _note(self, deadline: Deadline) -> None:
        """Say in the journal that it was not the program that ended; once, before the first signal."""
        if read_expired(self._data_dir, deadline.run, deadline.epoch) is not None:
            return
        try:
            note_expired(self._data_dir, deadline, self._clock())
        except OSError as error:
            # The signal is what keeps two containers of a run apart; the note only explains.
            self._say(f"note {deadline.key}", f"no note for {deadline.container}: {error}")

    def _signalled(self, deadline: Deadline) -> None:
        self._progress[deadline.key] = Progress(signalled=True)

    def _absent(self, deadline: Deadline) -> None:
        done = self._progress[deadline.key]
        if done.absent_at is None:
            self._say(deadline.key, f"{deadline.container} does not run")
        self._progress[deadline.key] = replace(done, absent_at=self._clock())

    def _say(self, about: str, line: str) -> None:
        """Log a line unless it is what was said last about that."""
        if self._said.get(about) != line:
            self._said[about] = line
            self._log(line)
