"""Programs that a test starts, kills, freezes and starts again."""

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from towline_testing.waiting import eventually

READY_WITHIN_S: Final = 40.0
STOPPED_WITHIN_S: Final = 30.0


@dataclass
class Program:
    """One program with its log; `ready` is a file that it writes once it serves."""

    name: str
    command: Sequence[str | Path]
    environment: Mapping[str, str]
    folder: Path
    ready: Path | None = None
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def log_file(self) -> Path:
        return self.folder / f"{self.name}.log"

    def log(self) -> str:
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def start(self, *, wait: bool = True) -> "Program":
        """Start it, and wait until it is ready."""
        if self.ready:
            self.ready.unlink(missing_ok=True)
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                env=os.environ | dict(self.environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                start_new_session=True,
            )
        if wait:
            self.wait_ready()
        return self

    def wait_ready(self) -> None:
        ready = self.ready
        if ready is not None:
            eventually(lambda: ready.exists() or not self.running, within=READY_WITHIN_S)
        assert self.running, f"{self.name} ended:\n{self.log()[-4000:]}"

    def kill(self) -> None:
        """End it as a crash does; one that is frozen too."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def stop(self) -> int:
        """End it as an operator does; returns its exit status."""
        assert self.process
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(STOPPED_WITHIN_S)

    def freeze(self) -> None:
        """Hold it as a machine that stalls does, until `thaw`."""
        assert self.process
        self.process.send_signal(signal.SIGSTOP)
        pid = self.process.pid
        eventually(lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T")

    def thaw(self) -> None:
        assert self.process
        self.process.send_signal(signal.SIGCONT)
