"""References to images of containers, taken apart as Docker does; pure."""

import re
from typing import Final, NamedTuple

from towline.errors import InvalidArgument

__all__ = ["HUB", "Image", "parse", "registry_of", "repository"]

HUB: Final = "docker.io"
"""The registry of references that name none."""

_MAX_CHARACTERS: Final = 255
_HUBS: Final = ("", HUB, "index.docker.io")
# As container registries have it: an optional host, then lower-case parts.
_HOST: Final = r"(?:[a-zA-Z0-9](?:[a-zA-Z0-9.-]*[a-zA-Z0-9])?|\[[0-9a-fA-F:]+\])(?::[0-9]{1,5})?"
_PART: Final = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_PATH: Final = rf"{_PART}(?:/{_PART})*"
_REPOSITORY: Final = re.compile(rf"(?:{_HOST}/)?{_PATH}")
_REFERENCE: Final = re.compile(
    rf"(?P<name>(?:{_HOST}/)?{_PATH})(?::(?P<tag>\w[\w.-]{{0,127}}))?(?:@(?P<digest>[a-z0-9]+:[0-9a-f]{{32,}}))?",
    re.ASCII,
)


class Image(NamedTuple):
    """A reference to an image, taken apart."""

    name: str
    """As it was written, without tag and digest."""
    host: str
    """The registry's "host" or "host:port"; "docker.io" where none was written."""
    path: str
    """The repository there."""
    tag: str
    """"latest" where none was written."""
    digest: str
    """Empty: none was written."""


def parse(reference: str) -> Image:
    """Take a reference apart; InvalidArgument if it is none."""
    found = _REFERENCE.fullmatch(reference)
    if not found:
        raise InvalidArgument.field(
            "IMAGE", f"{reference[:80]!r} is no image reference; write [host/]name[:tag][@digest]"
        )
    host, path = _split(found["name"])
    host = HUB if host in _HUBS else host
    if host == HUB and "/" not in path:
        path = f"library/{path}"
    return Image(found["name"], host, path, found["tag"] or "latest", found["digest"] or "")


def registry_of(reference: str) -> str:
    """Return the registry of a reference, "host" or "host:port"; "docker.io" where it names none."""
    host, _ = _split(reference)
    return HUB if host in _HUBS else host


def repository(text: str, field: str) -> str:
    """Check that `text` is a reference without tag and digest; InvalidArgument names `field`."""
    if len(text) > _MAX_CHARACTERS or not _REPOSITORY.fullmatch(text):
        raise InvalidArgument.field(
            field,
            f"{text[:_MAX_CHARACTERS]!r} is no repository; write it as `docker push` takes it, without a "
            'tag, such as "images.example:5000/towline"',
        )
    return text


def _split(reference: str) -> tuple[str, str]:
    """Part the host, empty where none is written, from the rest, by what it looks like, as Docker does."""
    host, slash, path = reference.partition("/")
    if slash and ("." in host or ":" in host or host == "localhost" or host != host.lower()):
        return host, path
    return "", reference
