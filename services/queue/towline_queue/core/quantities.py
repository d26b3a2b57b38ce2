"""Amounts as administrators write them: "16GiB" of memory, "0.5" cores, "4096" processes."""

import re
from decimal import Decimal
from typing import Final

__all__ = ["MAX_GPUS", "cores", "gpus", "limit", "memory", "pids"]

MAX_GPUS: Final = 1024
_MAX_INT64: Final = 2**63 - 1
_BYTES: Final = {
    "b": 1,
    **{f"{prefix}b": 1000**power for power, prefix in enumerate("kmgt", start=1)},
    **{f"{prefix}ib": 1024**power for power, prefix in enumerate("kmgt", start=1)},
}
_NUMBER: Final = re.compile(r"[0-9]{1,18}(\.[0-9]{1,9})?")
_AMOUNT: Final = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,9})?) ?([A-Za-z]*)")
# Docker's own least: 6 MB of memory.
_MIN_MEMORY: Final = 6 * 1024 * 1024
_MIN_NANO_CPUS: Final = 10_000_000


def memory(text: str, *, least: int = _MIN_MEMORY) -> int:
    """Return bytes for an amount with a unit, such as "16GiB" or "512MB"; ValueError says what to write."""
    match = _AMOUNT.fullmatch(text)
    factor = _BYTES.get(match[2].lower()) if match else None
    if match is None or factor is None:
        raise ValueError(
            f"{text!r} is no amount of memory; "
            'write a number with a unit, such as "16GiB" (1024³) or "512MB" (1000²)'
        )
    amount = int(Decimal(match[1]) * factor)
    if not least <= amount <= _MAX_INT64:
        raise ValueError(
            f"{text!r} is {amount} bytes; at least {least} are needed and at most 2^63-1 possible"
        )
    return amount


def cores(text: str) -> int:
    """Return billionths of a core for a number of cores, such as "0.5"; ValueError says what to write."""
    if not _NUMBER.fullmatch(text):
        raise ValueError(f'{text!r} is no number of cores; write a decimal number, such as "4" or "0.5"')
    nano_cpus = int(Decimal(text) * 1_000_000_000)
    if not _MIN_NANO_CPUS <= nano_cpus <= _MAX_INT64:
        raise ValueError(f"{text!r} cores: at least 0.01 are needed; leave it empty for no limit")
    return nano_cpus


def pids(text: str) -> int:
    """Return the most processes, -1 for no limit; ValueError says what to write."""
    count = _integer(text, 'a whole number, such as "4096", or "-1" for no limit')
    if count != -1 and not 1 <= count <= _MAX_INT64:
        raise ValueError(f'{text!r} processes: write at least "1", or "-1" for no limit')
    return count


def limit(text: str) -> int:
    """Return the value of a ulimit, -1 for unlimited; ValueError says what to write."""
    value = _integer(text, 'a whole number, such as "65536", or "-1" for unlimited')
    if not -1 <= value <= _MAX_INT64:
        raise ValueError(f'{text!r}: write a number of 0 or more, or "-1" for unlimited')
    return value


def gpus(text: str) -> int:
    """Return a number of whole GPUs; ValueError says what to write."""
    count = _integer(text, 'a whole number of GPUs, such as "1"')
    if not 0 <= count <= MAX_GPUS:
        raise ValueError(f"{text!r} GPUs: write a number from 0 to {MAX_GPUS}")
    return count


def _integer(text: str, remedy: str) -> int:
    if not re.fullmatch(r"-?[0-9]{1,19}", text):
        raise ValueError(f"{text!r} is no whole number; write {remedy}")
    return int(text)
