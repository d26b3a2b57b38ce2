"""What apt-get does, read from what it prints with --quiet: for people, and how much it was."""

import re
from typing import Final

from towline_agent.core.image_steps import Step
from towline_agent.core.printed_lines import PrintedLines

__all__ = ["AptSteps"]

_COUNTS: Final = re.compile(r"(\d+) upgraded, (\d+) newly installed,")
_FETCHES: Final = re.compile(r"Get:\d+ \S+ \S+ \S+ (\S+) .*\[[\d.,]+ k?M?G?B\]$")
_FETCHED: Final = re.compile(r"Fetched ([\d.,]+) (B|kB|MB|GB) in ")
_UNPACKS: Final = re.compile(r"Unpacking (\S+) ")
_SETS_UP: Final = re.compile(r"Setting up (\S+) ")
_BYTES: Final = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9}


class AptSteps:
    """Follows the output of one installation."""

    def __init__(self) -> None:
        self._lines = PrintedLines()
        self._packages = self._fetches = self._set_up = self._fetched_bytes = 0

    def feed(self, data: bytes) -> str:
        """Take more of the output, and return for people what goes on since; empty: nothing new."""
        said = ""
        for line in self._lines.feed(data):
            said = self._read(line) or said
        return said

    def count(self, step: Step) -> None:
        """Note in a step how many packages it was about, and how much came for them."""
        step.pieces, step.transferred = self._packages, self._fetched_bytes
        step.cached = max(self._packages - self._fetches, 0)

    def _read(self, line: str) -> str:
        if found := _COUNTS.match(line):
            self._packages = int(found[1]) + int(found[2])
            return f"{self._packages} packages with what they need"
        if found := _FETCHES.match(line):
            self._fetches += 1
            return f"downloading {found[1]}"
        if found := _FETCHED.match(line):
            self._fetched_bytes = int(float(found[1].replace(",", "")) * _BYTES[found[2]])
            return ""
        if found := _UNPACKS.match(line):
            return f"unpacking {found[1]}"
        if found := _SETS_UP.match(line):
            self._set_up += 1
            return f"setting up {found[1]}, {self._set_up} of {self._packages}"
        return ""
