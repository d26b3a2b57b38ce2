"""Numbers of bytes, as people read them."""

from typing import Final

__all__ = ["part", "written"]

_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB")


def written(count: int) -> str:
    """Write a number of bytes: "512 B", "1.5 MiB"."""
    unit, name, digits = _unit(count)
    return f"{count / unit:.{digits}f} {name}"


def part(done: int, total: int) -> str:
    """Write how much of a number of bytes there is, in the unit of the whole: "1.2 of 2.0 GiB"."""
    unit, name, digits = _unit(total)
    return f"{done / unit:.{digits}f} of {total / unit:.{digits}f} {name}"


def _unit(count: int) -> tuple[int, str, int]:
    power = 0
    while count >= 1024 ** (power + 1) and power < len(_UNITS) - 1:
        power += 1
    return 1024**power, _UNITS[power], 1 if power else 0
