"""How versions are called: v0, v1, …, "latest", and aliases."""

import re
from collections.abc import Iterable
from typing import Final

from towline import names
from towline.errors import InvalidArgument

__all__ = ["LATEST", "aliases", "label", "number_of"]

LATEST: Final = "latest"
MAX_ALIASES: Final = 64

_NUMBER: Final = re.compile(r"v(0|[1-9][0-9]{0,8})")
_LIKE_A_NUMBER: Final = re.compile(r"v[0-9]+")


def label(number: int) -> str:
    """Name the version with this number, counted from 0."""
    return f"v{number}"


def number_of(word: str) -> int | None:
    """Give the number in "v7"; None for any other word."""
    found = _NUMBER.fullmatch(word)
    return int(found[1]) if found else None


def aliases(job: names.JobName, words: Iterable[str], field: str) -> list[str]:
    """Check aliases, drop repeated ones and sort them; InvalidArgument names `field`."""
    unique = sorted(set(words))
    if len(unique) > MAX_ALIASES:
        raise InvalidArgument.field(field, f"{len(unique)} are too many; at most {MAX_ALIASES} are taken")
    for word in unique:
        names.job_version(f"{job}/versions/{word}", field)
        if word == LATEST or _LIKE_A_NUMBER.fullmatch(word):
            raise InvalidArgument.field(field, f"{word!r} is set by the registry itself; take another word")
    return unique
