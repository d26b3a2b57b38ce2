"""Which images an agent may remove: those that it made or pulled, and that nobody gave another name. Pure."""

import re
from collections.abc import Collection
from typing import Final

from towline.errors import InvalidArgument
from towline.requests import images

__all__ = ["left_by_push", "may_go"]

_KEY: Final = re.compile(r"[0-9a-f]{64}")
# As core.keys names images; others that begin like them, such as base images, are people's.
_OURS: Final = ("towline/env:", "towline/system:", "towline/job:")


def may_go(names: Collection[str], pulled_as: Collection[str], repository: str) -> bool:
    """Tell whether an agent gave an image all its names.

    Args:
        names: Of an image that the agent made or pulled, "name:tag" or "name@digest" each.
        pulled_as: What it pulled the image by.
        repository: Where its fleet shares images; empty: nowhere.
    """
    known = {_plain(name) for name in pulled_as}
    # An image whose tag has moved on to a newer one keeps the digest that the tag had.
    places = {_plain(name)[:2] for name in pulled_as if "@" not in name}
    ours = (*_OURS, f"{repository}@") if repository else _OURS

    def is_ours(name: str) -> bool:
        plain = _plain(name)
        moved_on = "@" in name and plain[:2] in places
        return name.startswith(ours) or left_by_push(name, repository) or plain in known or moved_on

    return all(map(is_ours, names))


def left_by_push(name: str, repository: str) -> bool:
    """Tell whether a name is one that an image has only while it is pushed."""
    place, _, tag = name.rpartition(":")
    return bool(repository) and place == repository and _KEY.fullmatch(tag) is not None


def _plain(name: str) -> tuple[str, str, str]:
    """Write a name as every spelling of it is written."""
    try:
        image = images.parse(name)
    except InvalidArgument:
        return "", "", name
    return image.host, image.path, image.digest or image.tag
