"""What of an image's system jobs name: packages of its distribution, and its platform."""

import re
from collections.abc import Iterable
from typing import Final

from towline.errors import InvalidArgument

__all__ = ["checked", "is_package", "is_platform"]

_LONGEST: Final = 256
# Names as Debian's policy has them, with an architecture and a version as apt-get takes them; it would remove
# what ends in "-".
_PACKAGE: Final = re.compile(r"[a-z0-9][a-z0-9+.-]+(:[a-z0-9-]+)?(=[A-Za-z0-9.+:~-]+)?(?<!-)")
_PLATFORM: Final = re.compile(r"[a-z0-9]{1,32}/[a-z0-9_]{1,32}(/[a-z0-9.]{1,32})?")


def is_package(text: str) -> bool:
    """Tell whether a text names a package of Debian as apt-get takes it, such as "ffmpeg=7:5.1"."""
    return len(text) <= _LONGEST and _PACKAGE.fullmatch(text) is not None


def checked(packages: Iterable[str], field: str) -> tuple[str, ...]:
    """Return system packages that somebody asks for, in order; InvalidArgument if one is no name of one."""
    found = tuple(sorted(set(packages)))
    for package in found:
        if not is_package(package):
            raise InvalidArgument.field(
                field, f"{package[:80]!r} is no name of a Debian package; write ffmpeg or ffmpeg=7:5.1"
            )
    return found


def is_platform(text: str) -> bool:
    """Tell whether a text is "{os}/{architecture}" or "{os}/{architecture}/{variant}"."""
    return _PLATFORM.fullmatch(text) is not None
