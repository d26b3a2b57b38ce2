"""Digests as Towline writes them: "sha256:" and 64 hex digits."""

import hashlib
from pathlib import Path
from typing import Final, NamedTuple

from towline.errors import InvalidArgument

__all__ = ["EMPTY", "PREFIX", "Measured", "checked", "measure", "written"]

PREFIX: Final = "sha256:"
# Of no bytes at all.
EMPTY: Final = PREFIX + hashlib.sha256().hexdigest()
_HEX_DIGITS: Final = 64


class Measured(NamedTuple):
    """What bytes are named by."""

    digest: str
    size_bytes: int


def measure(source: Path | bytes) -> Measured:
    """Read a file or bytes and give digest and size; OSError where the file cannot be read."""
    if isinstance(source, bytes):
        return Measured(PREFIX + hashlib.sha256(source).hexdigest(), len(source))
    with source.open("rb") as file:
        computed = hashlib.file_digest(file, "sha256")
        return Measured(written(computed), file.tell())


def written(computed: "hashlib._Hash") -> str:
    """Write a computed sha256."""
    return PREFIX + computed.hexdigest()


def checked(digest: str) -> str:
    """Give a digest back; InvalidArgument if it is none."""
    digits = digest.removeprefix(PREFIX)
    if digits == digest or len(digits) != _HEX_DIGITS or set(digits) - set("0123456789abcdef"):
        raise InvalidArgument.field("digest", f"{digest!r} is not one; write sha256: and 64 hex digits")
    return digest
