"""How versions are called: v0, v1, …, "latest", and aliases."""

import re
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from towline import names
from towline.errors import FailedPrecondition, InvalidArgument

__all__ = [
    "LATEST",
    "NONE",
    "Expected",
    "alias",
    "aliases",
    "expected",
    "in_use",
    "label",
    "number",
    "number_of",
    "pointed_at",
]

LATEST: Final = "latest"
NONE: Final = "none"
"""What a compare-and-set of an alias expects where there is none."""
MAX_ALIASES: Final = 64

_NUMBER: Final = re.compile(r"v(0|[1-9][0-9]{0,8})")
_LIKE_A_NUMBER: Final = re.compile(r"v[0-9]+")
_VERSIONS: Final = "/versions/"


class Expected(NamedTuple):
    """Where an alias is expected to point; None: nowhere, there is none."""

    number: int | None


def label(number: int) -> str:
    """Name the version with this number, counted from 0."""
    return f"v{number}"


def number_of(word: str) -> int | None:
    """Give the number in "v7"; None for any other word."""
    found = _NUMBER.fullmatch(word)
    return int(found[1]) if found else None


def number(name: names.JobVersionName | names.ArtifactVersionName, field: str) -> int:
    """Give the number of a version that is named by it, not by an alias; InvalidArgument names `field`."""
    found = number_of(names.split_version(name)[1])
    if found is None:
        raise InvalidArgument.field(field, f"{name!r} is an alias; name the version itself, such as v0")
    return found


def aliases(series: names.JobName | names.ArtifactName, words: Iterable[str], field: str) -> list[str]:
    """Check aliases, drop repeated ones and sort them; InvalidArgument names `field`."""
    unique = sorted(set(words))
    if len(unique) > MAX_ALIASES:
        raise InvalidArgument.field(field, f"{len(unique)} are too many; at most {MAX_ALIASES} are taken")
    check = names.job_version if series.startswith("jobs/") else names.artifact_version
    for word in unique:
        check(f"{series}{_VERSIONS}{word}", field)
        if word == LATEST or _LIKE_A_NUMBER.fullmatch(word):
            raise InvalidArgument.field(field, f"{word!r} is set by the registry itself; take another word")
    return unique


def alias(name: names.JobVersionName | names.ArtifactVersionName, field: str) -> str:
    """Give the alias by which a version is named; InvalidArgument names `field` where it is none."""
    word = names.split_version(name)[1]
    if word == LATEST or _LIKE_A_NUMBER.fullmatch(word):
        raise InvalidArgument.field(field, f"{word!r} is set by the registry itself; name an alias")
    return word


def expected(series: names.JobName | names.ArtifactName, text: str, field: str) -> Expected | None:
    """Read what an alias must point at before it is moved; None: whatever it points at.

    Raises:
        InvalidArgument: It is neither empty, "none" nor a version of the series; names `field`.
    """
    if not text:
        return None
    if text == NONE:
        return Expected(None)
    name, _, word = text.partition(_VERSIONS)
    found = number_of(word)
    if name != series or found is None:
        raise InvalidArgument.field(
            field,
            f'{text!r} is no version of {series}; write {series}{_VERSIONS}v0, or "{NONE}" for no alias yet',
        )
    return Expected(found)


def in_use(name: str, by: str, remedy: str, **metadata: str) -> FailedPrecondition:
    """Say that a version cannot be deleted.

    Args:
        name: The version.
        by: What refers to it.
        remedy: What to do first.
        metadata: The same for programs.
    """
    return FailedPrecondition(
        f"{name} is in use: {by}; {remedy}", reason="IN_USE", metadata={"name": name} | metadata
    )


def pointed_at(name: str, words: Sequence[str]) -> FailedPrecondition:
    """Say that a version cannot be deleted because aliases point at it."""
    shown = ", ".join(words)
    return in_use(name, f"aliases point at it ({shown})", "take them away or move them first", aliases=shown)
