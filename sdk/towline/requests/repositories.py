"""Repositories of container registries, as references to images begin with them; pure."""

import re
from typing import Final

from towline.errors import InvalidArgument

__all__ = ["repository"]

_MAX_CHARACTERS: Final = 255
# As container registries have it: an optional host, then lower-case parts.
_PART: Final = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_HOST: Final = r"(?:[A-Za-z0-9.-]+|\[[0-9a-fA-F:]+\])(?::[0-9]{1,5})?"
_REPOSITORY: Final = re.compile(rf"(?:{_HOST}/)?{_PART}(?:/{_PART})*")


def repository(text: str, field: str) -> str:
    """Check that `text` is a reference without tag and digest; InvalidArgument names `field`."""
    if len(text) > _MAX_CHARACTERS or not _REPOSITORY.fullmatch(text):
        raise InvalidArgument.field(
            field,
            f"{text[:_MAX_CHARACTERS]!r} is no repository; write it as `docker push` takes it, without a "
            'tag, such as "images.example:5000/towline"',
        )
    return text
