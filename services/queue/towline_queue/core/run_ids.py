"""Ids of runs: lower-case Crockford base32, ten characters of time and eight of chance; they sort by time."""

from collections.abc import Sequence
from typing import Final

from towline.names import RunName

__all__ = ["RANDOM_BITS", "run_names"]

RANDOM_BITS: Final = 40
_ALPHABET: Final = "0123456789abcdefghjkmnpqrstvwxyz"


def run_names(time_ms: int, chances: Sequence[int]) -> list[RunName]:
    """Return one name for each random number of `RANDOM_BITS` bits, ascending.

    Args:
        time_ms: Milliseconds since 1970.
        chances: Random numbers, all different.
    """
    time = _digits(time_ms, 10)
    return [RunName(f"runs/{time}{_digits(chance, 8)}") for chance in sorted(chances)]


def _digits(number: int, length: int) -> str:
    digits = []
    for _ in range(length):
        number, digit = divmod(number, 32)
        digits.append(_ALPHABET[digit])
    return "".join(reversed(digits))
