"""Durations as people write them, "90s", "30m", "1h30m", read and written. No I/O."""

import re
from datetime import timedelta
from typing import Final

from towline.errors import InvalidArgument

__all__ = ["parse", "written"]

_UNITS: Final = {"d": 86_400_000_000, "h": 3_600_000_000, "m": 60_000_000, "s": 1_000_000, "ms": 1_000}
_PART: Final = re.compile(r"([0-9]+(?:\.[0-9]{1,6})?)(ms|[dhms])")
_WHOLE: Final = re.compile(rf"(?:{_PART.pattern}\s*)+")
_MOST: Final = timedelta(days=365)


def parse(text: str, option: str) -> timedelta:
    """Read a duration: numbers with the units d, h, m, s and ms, largest first.

    Raises:
        InvalidArgument: It is none, or longer than a year; the message names the option.
    """
    if re.fullmatch(r"\s*[0-9.]+\s*", text):
        number = text.strip()
        raise InvalidArgument.field(
            option, f"{text!r} has no unit; write {number}s, {number}m, {number}h or {number}d"
        )
    parts = _PART.findall(text) if _WHOLE.fullmatch(text.strip()) else []
    units = [unit for _, unit in parts]
    if not parts or units != [unit for unit in _UNITS if unit in units]:
        raise InvalidArgument.field(
            option, f"{text!r} is no duration; write one such as 90s, 30m, 2h, 1h30m or 7d"
        )
    microseconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
    if microseconds > _MOST / timedelta(
        microseconds=1
    ):  # compared before it is a timedelta, which has bounds
        raise InvalidArgument.field(option, f"{text!r} is too long; give {_MOST.days}d at most")
    return timedelta(microseconds=round(microseconds))


def written(span: timedelta) -> str:
    """Write a duration exactly, as `parse` reads it: "1h30m" for 90 minutes; "0s" for none."""
    left = span // timedelta(microseconds=1)
    parts: list[str] = []
    for unit in ("d", "h", "m"):
        count, left = divmod(left, _UNITS[unit])
        if count:
            parts.append(f"{count}{unit}")
    if left or not parts:
        parts.append(f"{left / _UNITS['s']:.6f}".rstrip("0").rstrip(".") + "s")
    return "".join(parts)
