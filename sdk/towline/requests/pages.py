"""Pages of a list: how many, and opaque tokens that say where the next one begins."""

import base64
import binascii
import hashlib
import json
from typing import Final, TypeGuard, TypeVar

from towline.errors import InvalidArgument

__all__ = ["next_token", "page_size", "page_start"]

_DEFAULT: Final = 50
_MOST: Final = 1000


def page_size(asked: int) -> int:
    """Return how many a page may hold; InvalidArgument where fewer than none are asked for."""
    if asked < 0:
        raise InvalidArgument.field("page_size", f"{asked} is negative; leave it out for {_DEFAULT}")
    return min(asked, _MOST) or _DEFAULT


_Key = TypeVar("_Key", str, int)


def next_token(question: bytes, last: str | int) -> str:
    """Make the token of the page after the one whose last key is `last`.

    Args:
        question: What is listed and by which filter; the token is good for this alone.
        last: Key of the page's last entry.
    """
    content = json.dumps([_fingerprint(question), last], separators=(",", ":"))
    return base64.urlsafe_b64encode(content.encode()).decode().rstrip("=")


def page_start(question: bytes, token: str, kind: type[_Key]) -> _Key | None:
    """Return the key after which the page begins; None: at the start.

    Args:
        question: See `next_token`.
        token: Empty: none.
        kind: What the list's keys are.

    Raises:
        InvalidArgument: The token is none of `next_token`, or one for another question.
    """
    if not token:
        return None
    try:
        content = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    except (binascii.Error, ValueError):
        content = None
    match content:
        case [str(fingerprint), last] if _is_key(last, kind) and fingerprint == _fingerprint(question):
            return last
        case [str(), str() | int()]:
            raise InvalidArgument.field("page_token", "belongs to a list with another filter; begin anew")
        case _:
            raise InvalidArgument.field("page_token", "is no token that this service gave; begin anew")


def _is_key(value: object, kind: type[_Key]) -> TypeGuard[_Key]:
    """Whether PostgreSQL takes the value as a key; tokens are not signed."""
    return isinstance(value, kind) and (isinstance(value, str) or abs(value) < 2**63)


def _fingerprint(question: bytes) -> str:
    return hashlib.sha256(question).hexdigest()[:16]
