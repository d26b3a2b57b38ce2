"""Bounds on texts in requests: lengths, relative paths, URLs without secrets."""

import re
from collections.abc import Container
from typing import Final
from urllib.parse import SplitResult, urlsplit

from towline.errors import InvalidArgument

__all__ = ["bounded", "relative_path", "without_credentials"]

MAX_PATH_BYTES: Final = 4096
MAX_PART_BYTES: Final = 255
MAX_URL_CHARACTERS: Final = 2048

# git@host:path, as ssh and git take it; a colon before any slash.
_SCP_LIKE: Final = re.compile(
    r"(?:(?P<user>[^@/:\s]+)@)?(?P<host>[A-Za-z0-9][^@/:\s]*):(?!//)(?P<path>[^@\s]+)"
)


def bounded(text: str, field: str, most: int) -> str:
    """Check that `text` has at most `most` characters and no NUL; InvalidArgument names `field`."""
    if len(text) > most:
        raise InvalidArgument.field(field, f"{len(text)} characters are too many; at most {most} are taken")
    if "\0" in text:
        raise InvalidArgument.field(field, "a NUL character is not taken")
    return text


def relative_path(path: str, field: str) -> str:
    """Check a "/"-separated path that stays below its root; InvalidArgument names `field`."""
    if not path or path.startswith("/"):
        raise InvalidArgument.field(field, f"{path!r} is not a relative path")
    if "\0" in path or len(path.encode()) > MAX_PATH_BYTES:
        raise InvalidArgument.field(
            field, f"a path has no NUL character and at most {MAX_PATH_BYTES} bytes of UTF-8"
        )
    for part in path.split("/"):
        if part in ("", ".", ".."):
            raise InvalidArgument.field(
                field, f"{path!r} has an empty, '.' or '..' part; write the path without them"
            )
        if len(part.encode()) > MAX_PART_BYTES:
            raise InvalidArgument.field(
                field, f"{part[:40]!r}… is longer than {MAX_PART_BYTES} bytes, which no file system takes"
            )
    return path


def without_credentials(url: str, field: str, schemes: Container[str], *, scp_like: bool = False) -> str:
    """Check a URL that carries no secret; InvalidArgument names `field`, and never repeats the URL.

    A password is refused everywhere. A user name is refused in http(s), where access tokens hide in
    it, and taken for ssh, where it is an account ("git@…").

    Args:
        url: The URL.
        field: Where it stands in the request.
        schemes: Schemes that are taken.
        scp_like: Whether ssh's short form "git@host:path" is taken, too.
    """
    bounded(url, field, MAX_URL_CHARACTERS)
    if any(character.isspace() for character in url) or url.startswith("-") or "::" in url.partition("/")[0]:
        raise InvalidArgument.field(field, "this is no URL; write scheme://host/path")
    if scp_like and (short := _SCP_LIKE.fullmatch(url)):
        return short.string
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises where it is no number, which is where a token may stand
    except ValueError:
        raise InvalidArgument.field(field, "this is no URL; write scheme://host/path") from None
    if parts.scheme not in schemes:
        raise InvalidArgument.field(
            field, f"the scheme {parts.scheme!r} is not taken; write scheme://host/path"
        )
    if _secret(parts):
        raise InvalidArgument.field(
            field,
            "user names and passwords in URLs are refused; give the URL without them, agents have their own",
        )
    if not parts.hostname and parts.scheme != "file":
        raise InvalidArgument.field(field, "the URL names no host; write scheme://host/path")
    return url


def _secret(parts: SplitResult) -> bool:
    return parts.password is not None or (parts.username is not None and parts.scheme != "ssh")
