"""Names of content: "sha256:" and 64 lower-case hex digits."""

import hashlib
import re
from typing import Final, NewType

from towline.errors import InvalidArgument

__all__ = ["MAX_BLOB_BYTES", "Digest", "checked", "hex_digits", "named", "of"]

Digest = NewType("Digest", str)

# Largest blob that is taken.
MAX_BLOB_BYTES: Final = 1024**4

_PREFIX: Final = "sha256:"
_PATTERN: Final = re.compile(r"sha256:[0-9a-f]{64}")


def checked(text: str, field: str) -> Digest:
    """Check that `text` is a digest; InvalidArgument names `field`."""
    if not _PATTERN.fullmatch(text):
        raise InvalidArgument.field(
            field, f'{text!r} is not a digest; write "sha256:" and 64 lower-case hex digits'
        )
    return Digest(text)


def named(hexdigest: str) -> Digest:
    """Make the digest of what hashlib's `hexdigest()` gave."""
    return Digest(_PREFIX + hexdigest)


def of(data: bytes) -> Digest:
    """Compute the digest of bytes."""
    return named(hashlib.sha256(data).hexdigest())


def hex_digits(digest: Digest) -> str:
    """Give the 64 hex digits alone."""
    return digest.removeprefix(_PREFIX)
