"""Processes told apart beyond their pid, and how they are ended."""

import asyncio
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

__all__ = ["Ending", "ProcessId", "boot_id", "end", "until"]

_POLL_S: Final = 0.02


@dataclass(frozen=True)
class ProcessId:
    """One process of this boot: a pid alone may be somebody else's by now."""

    pid: int
    started: int
    """Clock ticks between boot and the start of the process, as /proc tells."""

    @classmethod
    def of(cls, pid: int) -> "ProcessId | None":
        """Identify the process that has a pid now; None if none has, or only its exit code is left."""
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return None
        # The name in brackets may hold anything; the state and the numbers follow the last bracket.
        fields = stat.rpartition(")")[2].split()
        return None if fields[0] in "ZX" else cls(pid, int(fields[19]))

    def alive(self) -> bool:
        """Tell whether this very process still runs."""
        return ProcessId.of(self.pid) == self

    def send(self, number: signal.Signals) -> None:
        """Send a signal, if the process still runs."""
        if self.alive():
            try:
                os.kill(self.pid, number)
            except ProcessLookupError:
                return


def boot_id() -> str:
    """Give the id of this boot of the machine: no process outlives it."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


@dataclass(frozen=True)
class Ending:
    """How a program is ended: asked, then told, then killed."""

    ask: signal.Signals = signal.SIGTERM
    grace: timedelta = timedelta(seconds=10)
    tell: signal.Signals = signal.SIGKILL
    """Sent after the grace period, or when somebody is in a hurry."""


async def end(process: ProcessId, ending: Ending, hurry: asyncio.Event) -> bool:
    """End a process, whoever's child it is, and wait until it is gone.

    Args:
        process: Which one.
        ending: How.
        hurry: Cuts the grace period short.

    Returns:
        Whether it went when it was asked.
    """
    process.send(ending.ask)
    if await until(lambda: hurry.is_set() or not process.alive(), ending.grace) and not process.alive():
        return True
    for number in (ending.tell, signal.SIGKILL):
        process.send(number)
        if await until(lambda: not process.alive(), timedelta(seconds=5)):
            break
    return False


async def until(condition: Callable[[], bool], limit: timedelta) -> bool:
    """Wait until a condition holds; False if it does not within the limit."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + limit.total_seconds()
    while not condition():
        if loop.time() >= deadline:
            return False
        # Processes that are not our children, and files, announce nothing: there is no event to await.
        await asyncio.sleep(_POLL_S)
    return True
