"""What of an image's system jobs name: packages of its distribution, and its platform."""

import re
from typing import Final

__all__ = ["is_package", "is_platform"]

_LONGEST: Final = 256
# Names as Debian's policy has them, with an architecture and a version as apt-get takes them.
_PACKAGE: Final = re.compile(r"[a-z0-9][a-z0-9+.-]+(:[a-z0-9-]+)?(=[A-Za-z0-9.+:~-]+)?")
_PLATFORM: Final = re.compile(r"[a-z0-9]{1,32}/[a-z0-9_]{1,32}(/[a-z0-9.]{1,32})?")


def is_package(text: str) -> bool:
    """Tell whether a text names a package of Debian as apt-get takes it, such as "ffmpeg=7:5.1"."""
    return len(text) <= _LONGEST and _PACKAGE.fullmatch(text) is not None


def is_platform(text: str) -> bool:
    """Tell whether a text is "{os}/{architecture}" or "{os}/{architecture}/{variant}"."""
    return _PLATFORM.fullmatch(text) is not None
