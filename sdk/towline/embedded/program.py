"""What a supervised program is, and one running process of it."""

import asyncio
import random
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final, Literal

from towline.embedded.layout import Layout
from towline.embedded.processes import Ending, ProcessId, end, until
from towline.embedded.state import StateFile
from towline.errors import Unavailable

__all__ = ["Event", "Program", "Report", "Supervised", "last_words"]

_FIRST_DELAY_S: Final = 0.2
_LONGEST_DELAY_S: Final = 10.0
_STABLE_S: Final = 30.0
_LOG_LIMIT_BYTES: Final = 16 * 1024 * 1024


@dataclass(frozen=True)
class Program:
    """How to run something."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    ending: Ending
    ready: Callable[[int], bool]
    """Tells whether the process with a pid is ready to work."""
    address_file: Path | None = None
    """Written by the program once it listens; removed before each start."""
    start_limit: timedelta = timedelta(seconds=60)
    """How long it may take to get ready."""
    may_leave: bool = False
    """Whether an end with exit code 0 is meant: an agent that was drained."""


@dataclass(frozen=True)
class Event:
    """Something that happened to a process, for people to read."""

    process: str
    what: Literal["starting", "up", "ended", "left", "stopping", "stopped"]
    detail: str = ""


Report = Callable[[Event], None]


class Supervised:
    """Keeps one program running: a process at a time, written down as soon as it is there."""

    def __init__(self, program: Program, layout: Layout, state: StateFile, report: Report) -> None:
        self._program = program
        self._log = layout.log(program.name)
        self._state = state
        self._report = report
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start the program and wait until it is ready.

        Raises:
            Unavailable: It ended first, or was not ready in time; reason PROCESS_FAILED.
        """
        name = self._program.name
        self._report(Event(name, "starting"))
        began = asyncio.get_running_loop().time()
        _rotate(self._log)
        if self._program.address_file:
            self._program.address_file.unlink(missing_ok=True)
        with self._log.open("ab") as log:
            log_start = log.tell()
            process = await asyncio.create_subprocess_exec(
                *self._program.command,
                env=dict(self._program.environment),
                cwd="/",
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Ctrl-C on our terminal is ours to pass on, in order.
                start_new_session=True,
            )
        self._process = process
        if identity := ProcessId.of(process.pid):
            self._state.started(name, identity)
        settled = await until(
            lambda: process.returncode is not None or self._program.ready(process.pid),
            self._program.start_limit,
        )
        if process.returncode is not None:
            raise Unavailable(
                f"{name} {_manner(process.returncode)} before it was ready: "
                f"{last_words(self._log, log_start)} (log: {self._log})",
                reason="PROCESS_FAILED",
            )
        if not settled:
            await self.stop(asyncio.Event())
            raise Unavailable(
                f"{name} was not ready after {self._program.start_limit}: "
                f"{last_words(self._log, log_start)} (log: {self._log})",
                reason="PROCESS_FAILED",
            )
        took = asyncio.get_running_loop().time() - began
        self._report(Event(name, "up", f"pid {process.pid}, {took:.1f} s"))

    async def keep(self) -> None:
        """Start the program again whenever it ends, until cancelled or it leaves as it may."""
        loop = asyncio.get_running_loop()
        failures, problem = 0, ""
        while True:
            since = loop.time()
            if self._process and not problem:
                code = await self._process.wait()
                if code == 0 and self._program.may_leave:
                    self._state.left(self._program.name)
                    again = "drained; `towline down` and `towline up` start it again"
                    self._report(Event(self._program.name, "left", again))
                    return
                problem = _manner(code)
            failures = 0 if loop.time() - since > _STABLE_S else failures + 1
            delay = _delay_s(failures)
            self._report(Event(self._program.name, "ended", f"{problem}; next try in {delay:.1f} s"))
            await asyncio.sleep(delay)
            problem = await self._start_again()

    async def _start_again(self) -> str:
        """Start the program and say what prevented it; empty: nothing did."""
        try:
            await self.start()
        except Unavailable as error:
            return error.message
        return ""

    async def stop(self, hurry: asyncio.Event) -> None:
        """End the process, if there is one, and wait until it is gone."""
        process = self._process
        if process is None:
            return
        if process.returncode is None and (identity := ProcessId.of(process.pid)):
            self._report(Event(self._program.name, "stopping"))
            orderly = await end(identity, self._program.ending, hurry)
            self._report(Event(self._program.name, "stopped", "" if orderly else "it had to be killed"))
        await process.wait()
        self._process = None
        self._state.ended(self._program.name)


def last_words(log: Path, start: int) -> str:
    """Give the line that says most since an offset of a log: PostgreSQL's last FATAL, else the last one."""
    with log.open("rb") as file:
        file.seek(start)
        lines = [line.strip() for line in file.read().decode(errors="replace").splitlines()]
    telling = [line for line in lines if "FATAL:" in line] or [line for line in lines if line]
    return telling[-1] if telling else "it said nothing"


def _delay_s(failures: int) -> float:
    delay: float = min(_FIRST_DELAY_S * 2 ** min(failures, 16), _LONGEST_DELAY_S)
    return delay * random.uniform(0.8, 1.2)  # noqa: S311 - jitter


def _manner(code: int) -> str:
    """Say how a process ended, from its return code."""
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


def _rotate(log: Path) -> None:
    """Keep one older log once the newest has grown large; a running process keeps its own open."""
    if log.exists() and log.stat().st_size > _LOG_LIMIT_BYTES:
        log.replace(log.with_name(log.name + ".1"))
