"""What goes first when images take too much room: the one used longest ago that nothing needs. Pure.

Layers are shared, so an image is as large as what it adds to the one that it was made from, and removing one
that others were made from frees nothing: those go first.
"""

import heapq
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

__all__ = ["StoredImage", "kept_bytes", "leaving", "parents"]

_NEVER: Final = float("-inf")


@dataclass(frozen=True)
class StoredImage:
    """An image on the node.

    Attributes:
        id: Its content id, "sha256:…".
        names: All that it is called, "name:tag" or "name@digest".
        labels: Of its configuration.
        layers: Digests of its layers, the base's first.
        size: Of all its layers in bytes, unpacked.
        created_at: When it was made, in seconds since 1970.
    """

    id: str
    names: tuple[str, ...]
    labels: Mapping[str, str]
    layers: tuple[str, ...]
    size: int
    created_at: float


def parents(images: Iterable[StoredImage]) -> dict[str, StoredImage | None]:
    """Find for each image the one that it adds the fewest layers to; None: there is none."""
    found: dict[str, StoredImage | None] = {}
    first: dict[tuple[str, ...], StoredImage] = {}
    for image in sorted(images, key=lambda one: (len(one.layers), one.created_at, one.id)):
        below = (image.layers[:count] for count in range(len(image.layers), 0, -1))
        found[image.id] = next((first[layers] for layers in below if layers in first), None)
        first.setdefault(image.layers, image)
    return found


def kept_bytes(images: Sequence[StoredImage], ours: Collection[str]) -> dict[str, int]:
    """Return how many bytes each of our images adds to the one that it was made from, whoever's that is."""
    below = parents(images)
    return {
        image.id: image.size - (parent.size if (parent := below[image.id]) else 0)
        for image in images
        if image.id in ours
    }


def leaving(
    images: Sequence[StoredImage], used_at: Mapping[str, float], in_use: Collection[str]
) -> list[StoredImage]:
    """Return those of our images that may go, in the order in which they would.

    An image counts as used whenever one was that is made from it.

    Args:
        images: All on the node.
        used_at: When each of ours was used last, in seconds since 1970.
        in_use: Ids of images that stay, and so do those that they were made from.
    """
    below = parents(images)
    by_id = {image.id: image for image in images}
    latest = {image.id: used_at.get(image.id, _NEVER) for image in images}
    children = dict.fromkeys(by_id, 0)
    # Those with more layers come first: what is told of an image is complete when its turn comes.
    for image in sorted(images, key=lambda one: len(one.layers), reverse=True):
        if parent := below[image.id]:
            latest[parent.id] = max(latest[parent.id], latest[image.id])
            children[parent.id] += 1

    def may_go(image: StoredImage) -> bool:
        return not children[image.id] and image.id in used_at and image.id not in in_use

    order: list[StoredImage] = []
    waiting = [(latest[image.id], image.id) for image in images if may_go(image)]
    heapq.heapify(waiting)
    while waiting:
        image = by_id[heapq.heappop(waiting)[1]]
        order.append(image)
        if parent := below[image.id]:
            children[parent.id] -= 1
            if may_go(parent):
                heapq.heappush(waiting, (latest[parent.id], parent.id))
    return order
