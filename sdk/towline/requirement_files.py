"""Requirements files as pip and uv read them, line by line; pure."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final
from urllib.parse import urlsplit

__all__ = ["Kind", "Line", "read"]

_INCLUDES: Final = ("-r", "--requirement", "-c", "--constraint")
_EDITABLES: Final = ("-e", "--editable")
_INDEXES: Final = ("-i", "--index-url", "--extra-index-url", "-f", "--find-links")
_OTHERS: Final = (
    *("--no-index", "--pre", "--prefer-binary", "--no-binary", "--only-binary", "--trusted-host"),
    *("--require-hashes", "--use-feature"),
)
_NAMED: Final = re.compile(
    r"(?P<name>[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)\s*(?:\[[A-Za-z0-9._,\s-]*\])?\s*"
    r"(?:@\s*(?P<url>\S+)|(?P<versions>\(?\s*(?:[<>=!~]=?=?\s*[A-Za-z0-9.*+!_-]+\s*,?\s*)+\)?)?)\s*(?:;.*)?"
)
_ARCHIVES: Final = (".whl", ".zip", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")


class Kind(Enum):
    """What a line is."""

    REQUIREMENT = auto()
    """Something that is fetched."""
    LOCAL = auto()
    """A folder or a file beside the requirements file, editable or not."""
    INCLUDE = auto()
    """Another file of requirements or constraints."""
    INDEX = auto()
    """Where packages are looked for."""
    OPTION = auto()
    """Anything else that pip is told."""


@dataclass(frozen=True)
class Line:
    """One line, comments and line breaks taken out."""

    number: int
    """Where it begins, from 1."""
    text: str
    kind: Kind
    value: str
    """Path of a LOCAL or an INCLUDE, URL of an INDEX, canonical name of a REQUIREMENT that has one."""
    pinned: bool = True
    """Whether a REQUIREMENT is one version and no other."""


def read(text: str) -> list[Line]:
    """Read a requirements file.

    Raises:
        ValueError: A line is neither a requirement nor an option of pip; the message names it.
    """
    return [_line(number, line) for number, line in _logical(text)]


def _logical(text: str) -> Iterator[tuple[int, str]]:
    """Join lines that end in a backslash, and take out comments and what is empty."""
    begun, parts = 0, list[str]()
    for number, raw in enumerate(text.removeprefix("\ufeff").splitlines(), start=1):
        begun = begun if parts else number
        is_comment = raw.lstrip().startswith("#")
        if raw.endswith("\\") and not is_comment:
            parts.append(raw[:-1].strip())
            continue
        parts.append(re.sub(r"(^|\s+)#.*$", "", raw).strip())
        if line := " ".join(part for part in parts if part):
            yield begun, line
        parts = []
    if line := " ".join(part for part in parts if part):
        yield begun, line


def _line(number: int, text: str) -> Line:
    option, value = _option(text)
    if option in _INCLUDES and value:
        return Line(number, text, Kind.INCLUDE, value)
    if option in _INDEXES and value:
        return Line(number, text, Kind.INDEX, value)
    if option in _EDITABLES and value:
        fetched = urlsplit(value).scheme not in ("", "file")
        return Line(
            number, text, Kind.REQUIREMENT if fetched else Kind.LOCAL, "" if fetched else _path(value)
        )
    if option in _OTHERS:
        return Line(number, text, Kind.OPTION, value)
    if option:
        raise ValueError(f"line {number} ({text[:80]!r}) is no option that is known for requirements files")
    return _requirement(number, text)


def _option(text: str) -> tuple[str, str]:
    if not text.startswith("-"):
        return "", ""
    if not text.startswith("--") and len(text) > 2 and text[2] not in " =":
        return text[:2], text[2:].strip()  # -rother.txt
    match = re.match(r"(--?[a-z-]+)(?:\s*=\s*|\s+|$)(.*)", text)
    return (match[1], match[2].strip().strip("\"'")) if match else (text, "")


def _requirement(number: int, text: str) -> Line:
    wanted = re.split(r"\s--(?:hash|global-option|config-settings?)\b", text, maxsplit=1)[0].strip()
    named = _NAMED.fullmatch(wanted)
    if named and not (named["url"] is None and wanted.lower().endswith(_ARCHIVES)):
        name = re.sub(r"[-_.]+", "-", named["name"]).lower()
        if named["url"] and _is_local(named["url"]):
            return Line(number, text, Kind.LOCAL, _path(named["url"]))
        versions = named["versions"] or ""
        pinned = bool(named["url"]) or ("==" in versions and "*" not in versions and "," not in versions)
        return Line(number, text, Kind.REQUIREMENT, name, pinned)
    if " " not in wanted.partition(";")[0].strip():
        if urlsplit(wanted).scheme not in ("", "file"):
            return Line(number, text, Kind.REQUIREMENT, "")
        if "/" in wanted or wanted.startswith(".") or wanted.lower().endswith(_ARCHIVES):
            return Line(number, text, Kind.LOCAL, _path(wanted))
    raise ValueError(f"line {number} ({text[:80]!r}) is no requirement")


def _is_local(url: str) -> bool:
    return urlsplit(url).scheme in ("", "file")


def _path(value: str) -> str:
    """Give the path of "file:./a[extra]#egg=a ; marker"."""
    bare = value.partition(";")[0].strip().partition("#")[0]
    bare = re.sub(r"\[[^\]]*\]$", "", bare)
    if bare.startswith("file:"):
        bare = re.sub(r"^file:(//)?", "", bare)
    return bare
