"""What uv does, read from what it prints: for people while it goes on, and as steps with their seconds.

Made for uv's words without progress bars, which no version promises: what is not understood is passed over.
"""

import re
from typing import Final

from towline_agent.core import sizes
from towline_agent.core.image_steps import Step
from towline_agent.core.printed_lines import PrintedLines

__all__ = ["UvSteps"]

_MOST_NAMES: Final = 3
_DID: Final = re.compile(
    r"(Resolved|Prepared|Installed|Bytecode compiled) (\d+) \w+ in (?:(\d+)m )?([\d.]+)(ms|s)\b"
)
_FETCHES: Final = re.compile(r"\s*Downloading (\S+) \(([\d.]+)(B|KiB|MiB|GiB)\)")
_FETCHED: Final = re.compile(r"\s*Downloaded (\S+)")
_MAKES: Final = re.compile(r"\s*Building (\S+)")
_MADE: Final = re.compile(r"\s*Built (\S+)")
_BYTES: Final = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_NAMES: Final = {
    "Resolved": "resolve packages",
    "Prepared": "fetch packages",
    "Installed": "install packages",
    "Bytecode compiled": "compile modules",
}


class UvSteps:
    """Follows the output of one installation."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        """What is done, in that order."""
        self._lines = PrintedLines()
        self._fetching: dict[str, int] = {}
        self._making: dict[str, None] = {}
        self._fetched_bytes = 0
        self._prepared = 0

    def feed(self, data: bytes) -> str:
        """Take more of the output, and return for people what goes on since; empty: nothing new."""
        said = ""
        for line in self._lines.feed(data):
            said = self._read(line) or said
        return said

    def _read(self, line: str) -> str:
        if found := _FETCHES.match(line):
            size = int(float(found[2]) * _BYTES[found[3]])
            self._fetching[found[1]] = size
            self._fetched_bytes += size
        elif found := _FETCHED.match(line):
            self._fetching.pop(found[1], None)
        elif found := _MAKES.match(line):
            self._making[found[1]] = None
        elif found := _MADE.match(line):
            self._making.pop(found[1], None)
        elif found := _DID.match(line):
            return self._did(found[1], int(found[2]), int(found[3] or 0) * 60 + _seconds(found[4], found[5]))
        else:
            return ""
        return self._doing()

    def _did(self, what: str, count: int, seconds: float) -> str:
        step = Step(_NAMES[what], seconds, count)
        said = f"{what.lower()} {count} {_NAMES[what].partition(' ')[2]}"
        if what == "Prepared":
            self._fetching, self._making = {}, {}
            self._prepared, step.transferred = count, self._fetched_bytes
        elif what == "Installed":
            step.cached = max(count - self._prepared, 0)
            said += f", {step.cached} from the cache" if step.cached else ""
            self._prepared = self._fetched_bytes = 0
        self.steps.append(step)
        return said

    def _doing(self) -> str:
        parts = []
        if self._fetching:
            size = sizes.written(sum(self._fetching.values()))
            parts.append(f"downloading {_listed(list(self._fetching))} ({size})")
        if self._making:
            parts.append(f"building {_listed(list(self._making))}")
        return ", ".join(parts)


def _listed(names: list[str]) -> str:
    more = len(names) - _MOST_NAMES
    return ", ".join(names[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


def _seconds(number: str, unit: str) -> float:
    try:
        return float(number) / (1000 if unit == "ms" else 1)
    except ValueError:  # such as "1.2.3"
        return 0.0
