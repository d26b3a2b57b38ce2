"""The lines of what a program prints, from pieces that end anywhere."""

from typing import Final

__all__ = ["PrintedLines"]

_LONGEST: Final = 4096


class PrintedLines:
    """Gives whole lines, each cut off where it is longer than anything that is read for its meaning."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[str]:
        """Return the lines that are whole with this piece."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        self._rest = self._rest[:_LONGEST]
        return [line[:_LONGEST].decode(errors="replace") for line in lines]
