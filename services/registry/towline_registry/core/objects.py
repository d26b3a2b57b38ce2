"""Where the bytes of blobs are in the object store.

A key is made for one upload and never used again. So whoever deletes an object, however late, never deletes
what somebody has stored since.
"""

from typing import Final, NewType

from towline_registry.core.digests import Digest, hex_digits, named

__all__ = ["BLOBS", "OWNER", "PROBE", "ObjectKey", "digest_of", "object_key"]

ObjectKey = NewType("ObjectKey", str)

BLOBS: Final = "blobs"
# Whose store it is, and whether it takes anything: objects that are no blobs.
OWNER: Final = ObjectKey("owner")
PROBE: Final = ObjectKey("probe")
_PREFIX: Final = f"{BLOBS}/sha256/"


def object_key(digest: Digest, mark: str) -> ObjectKey:
    """Make the key for bytes with this digest; `mark` is letters and digits that never come again."""
    digits = hex_digits(digest)
    return ObjectKey(f"{_PREFIX}{digits[:2]}/{digits[2:]}.{mark}")


def digest_of(key: ObjectKey) -> Digest:
    """Give the digest that the bytes under a key have; keys of older releases have no mark."""
    digits, _, _ = key.removeprefix(_PREFIX).partition(".")
    return named(digits.replace("/", ""))
