"""What a watchdog of tests watches for: a process that renews as an agent does, and containers."""

import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from uuid import uuid4

from towline_agent.deadlines import Deadline, Expired, read_expired
from towline_agent.watchdog.lock import holder
from towline_testing.engine import base_image, docker, inspect
from towline_testing.waiting import eventually

_RENEWER = """
import json, sys, time
from dataclasses import replace
from pathlib import Path
from towline_agent.deadlines import Deadline, Deadlines, boottime
from towline_agent.journal import locked
from towline_agent.watchdog.starting import ensure_running

folder, engine, lasts, grace, entries = Path(sys.argv[1]), sys.argv[2], *map(json.loads, sys.argv[3:])
leases = [Deadline(**entry) for entry in entries]
with locked(folder):
    file = Deadlines(folder)
    started = False
    while True:
        now = boottime()
        file.write(replace(one, stop_at=now + lasts, kill_at=now + lasts + grace) for one in leases)
        if not started:
            print(ensure_running(folder, engine), flush=True)
            started = True
        time.sleep(0.1)
"""


@dataclass(frozen=True)
class Watched:
    """A container with a deadline."""

    id: str
    deadline: Deadline

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        state = inspect(self.id)["State"]
        return None if state["Running"] else int(state["ExitCode"])

    @property
    def log(self) -> str:
        return docker("logs", self.id)


class Renewer:
    """Holds a data folder and renews the leases in it every 0.1 s, as an agent does."""

    def __init__(self, folder: Path, engine: str = "unix:///var/run/docker.sock") -> None:
        self.folder = folder
        self._engine = engine
        self.process: subprocess.Popen[str] | None = None

    def start(self, watched: Sequence[Watched], *, lasts_s: float = 1.0, grace_s: float = 30.0) -> int:
        """Start it; returns the pid of its watchdog. Each renewal lasts that long, then comes that grace."""
        entries = json.dumps([asdict(one.deadline) for one in watched])
        arguments = [str(self.folder), self._engine, str(lasts_s), str(grace_s), entries]
        for one in watched:
            (self.folder / "attempts" / one.deadline.key).mkdir(parents=True, exist_ok=True)
        self.process = subprocess.Popen(
            [sys.executable, "-c", _RENEWER, *arguments],
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self.process.stdout
        return int(self.process.stdout.readline())

    def kill(self) -> None:
        """End it as a crash does."""
        if self.process:
            self.process.kill()
            self.process.wait()
            assert self.process.stdout
            self.process.stdout.close()
            self.process = None

    def signal(self, number: signal.Signals) -> None:
        assert self.process
        self.process.send_signal(number)

    @property
    def watchdog(self) -> int | None:
        """Pid of the watchdog, if there is one."""
        found = holder(self.folder / "watchdog.lock")
        return found.pid if found else None

    @property
    def log(self) -> str:
        return (self.folder / "watchdog.log").read_text()

    def expired(self, watched: Watched) -> Expired | None:
        return read_expired(self.folder, watched.deadline.run, watched.deadline.epoch)

    def wait_for_the_watchdog_to_leave(self) -> None:
        eventually(lambda: self.watchdog is None, within=20)


def watched(program: str, stop_signal: str = "SIGTERM", *, started: bool = True) -> Watched:
    """Run a Python program in a container and return it with its deadline; it says "ready" first."""
    run = uuid4().hex
    name = f"towline-{run}-1"
    how = ["run", "--detach"] if started else ["create"]
    container = docker(
        *how,
        "--init",
        "--network=none",
        "--name",
        name,
        "--label",
        "towline.test=watchdog",
        base_image(),
        "python3",
        "-uc",
        program,
    )
    if started:
        eventually(lambda: "ready" in docker("logs", container), within=30)
    return Watched(container, Deadline("lease", 1, f"runs/{run}", name, stop_signal, 0, 0, "LEASE_EXPIRED"))
