"""The command `towline` as a process, and `towline up` as one that a test ends."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from towline_testing.waiting import eventually

COMMAND: Final = (sys.executable, "-m", "towline.cli")
UP_WITHIN_S: Final = 60.0


def towline(
    *arguments: str | Path,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    within: float = 60.0,
) -> subprocess.CompletedProcess[str]:
    """Run the command to its end, with pipes instead of a terminal."""
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        env=os.environ | dict(env or {}),
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=within,
        check=False,
    )


class Up:
    """`towline up` in the foreground, as in a terminal of its own."""

    def __init__(self, data_dir: Path, **environment: str) -> None:
        self.data_dir = data_dir
        self._lines: list[str] = []
        self.process = subprocess.Popen(
            [*COMMAND, "up", "--data-dir", data_dir],
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def output(self) -> str:
        return "".join(self._lines)

    @property
    def environment(self) -> dict[str, str]:
        """For commands that are to find it."""
        return {"TOWLINE_DATA_DIR": str(self.data_dir)}

    def wait_until_up(self) -> "Up":
        eventually(
            lambda: "towline is up" in self.output or self.process.poll() is not None, within=UP_WITHIN_S
        )
        assert self.process.poll() is None, self.output
        return self

    def interrupt(self) -> int:
        """Press Ctrl-C once and wait."""
        self.process.send_signal(signal.SIGINT)
        return self.wait()

    def kill(self) -> None:
        """End the supervisor as a crash does; what it has started goes on."""
        self.process.kill()
        self.wait()

    def close(self) -> None:
        """End it, however the test has left it."""
        if self.process.poll() is None:
            self.interrupt()

    def wait(self) -> int:
        code = self.process.wait(UP_WITHIN_S)
        self._reader.join(UP_WITHIN_S)
        assert self.process.stdout
        self.process.stdout.close()
        return code

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self._lines.append(line)
