"""Ids of runs: lower-case Crockford base32, ten characters of time and eight of chance; they sort by time."""

from collections.abc import Iterable
from itertools import groupby
from typing import Final, cast

from towline.names import RunName

__all__ = ["BLOCK_BITS", "RANDOM_BITS", "run_names"]

RANDOM_BITS: Final = 40
BLOCK_BITS: Final = 10
"""The last two characters: names that differ in them only are a block."""
_ALPHABET: Final = "0123456789abcdefghjkmnpqrstvwxyz"
_PAIRS: Final = [first + second for first in _ALPHABET for second in _ALPHABET]


def run_names(time_ms: int, chances: Iterable[int]) -> list[RunName]:
    """Return one name for each random number of `RANDOM_BITS` bits, ascending.

    Args:
        time_ms: Milliseconds since 1970.
        chances: Random numbers, all different.
    """
    pairs = _PAIRS
    start = "runs/" + "".join(pairs[time_ms >> bits & 1023] for bits in (40, 30, 20, 10, 0))
    names: list[str] = []
    for block, inside in groupby(sorted(chances), lambda chance: chance >> BLOCK_BITS):
        shared = f"{start}{pairs[block >> 20]}{pairs[block >> 10 & 1023]}{pairs[block & 1023]}"
        names += [shared + pairs[chance & 1023] for chance in inside]
    return cast("list[RunName]", names)  # not one by one, which takes as long as all the rest
