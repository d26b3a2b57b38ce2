"""Lease ids on the wire: "{run}.{epoch}", so that a result finds its attempt without a look-up."""

import re
from functools import lru_cache
from typing import Final, NamedTuple

__all__ = ["AttemptKey", "lease_id", "parse_lease_id"]

_FORM: Final = re.compile(r"([a-z0-9-]{1,64})\.([1-9][0-9]{0,17})")
# Answer, events and result of an attempt name its lease: of all that a full agent holds, and some more.
_REMEMBERED: Final = 16384


class AttemptKey(NamedTuple):
    """What every write about an attempt compares: the run, "runs/{run}", and the epoch of its lease."""

    run: str
    epoch: int


def lease_id(key: AttemptKey) -> str:
    """Write the id of an attempt's lease; agents treat it as opaque."""
    return f"{key.run.removeprefix('runs/')}.{key.epoch}"


@lru_cache(_REMEMBERED)
def parse_lease_id(text: str, epoch: int) -> AttemptKey | None:
    """Read a lease id that came with an epoch; None if the queue never made such a pair."""
    match = _FORM.fullmatch(text)
    if match is None or int(match[2]) != epoch:
        return None
    return AttemptKey(f"runs/{match[1]}", epoch)
