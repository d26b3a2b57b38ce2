"""The images that this agent made or pulled, within a budget; others are never touched."""

import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from towline_agent.core import budgets, sizes
from towline_agent.core.budgets import StoredImage
from towline_agent.core.image_names import left_by_push, may_go
from towline_agent.core.ownership import LABEL_MADE_BY
from towline_agent.engine.store import ImageStore
from towline_agent.hygiene import Leaving
from towline_agent.used_images import UsedImages

__all__ = ["ImageCache", "ImageSettings"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImageSettings:
    """How images are kept.

    Attributes:
        instance_id: Id of the agent's data folder; says which images it made.
        most_bytes: Bound of what is kept; None: what the disk has room for.
        repository: Where its fleet shares images; empty: nowhere.
    """

    instance_id: str
    most_bytes: int | None
    repository: str = ""


@dataclass(frozen=True)
class _Look:
    """All images as they were at a moment, and what is left of them."""

    at: float
    images: Sequence[StoredImage]
    in_use: Collection[str]
    """Ids of those that containers have."""
    below: Mapping[str, StoredImage | None]
    """See budgets.parents."""
    left: set[str]
    """Ids of those that were not removed since."""

    def is_needed(self, image: StoredImage) -> bool:
        """Tell whether one is left that was made from an image: without its name it would stay for that."""
        return any(self.below[other] is image for other in self.left)


class ImageCache:
    """Keeps images within their budget, and takes away what pushes that were killed have left.

    Args:
        store: The engine's images.
        used: When they were used, and which ones are the agent's.
        settings: How they are kept.
        held: Gives the ids of images that runs in the agent's hands have.
        pushing: Gives the names that images have while they are pushed now.
    """

    def __init__(
        self,
        store: ImageStore,
        used: UsedImages,
        settings: ImageSettings,
        held: Callable[[], Collection[str]],
        pushing: Callable[[], Collection[str]],
    ) -> None:
        self._store = store
        self._used = used
        self._settings = settings
        self._held = held
        self._pushing = pushing

    async def tidy(self) -> None:
        """Remove what is beyond the budget, the images used longest ago first."""
        look = await self._look()
        await self._end_pushes(look.images)
        most = self._settings.most_bytes
        if most is None:
            return
        size = budgets.kept_bytes(look.images, self._used.names)
        beyond = sum(size.values()) - most
        for image in self._order(look):
            if beyond <= 0:
                return
            if await self._remove(image, look):
                beyond -= size[image.id]
        if beyond > 0:
            _log.info("images that are in use go %s beyond their budget", sizes.written(beyond))

    async def leaving(self) -> Sequence[Leaving]:
        """Return those that may go, what was used longest ago first."""
        look = await self._look()
        return [
            Leaving(self._used.used_at(image.id), partial(self._remove, image, look))
            for image in self._order(look)
        ]

    async def _look(self) -> _Look:
        """Look at all images on the node, and note which are the agent's and which are in use."""
        at, known = time.time(), set(self._used.names)
        images = await self._store.images()
        for image in images:
            if image.labels.get(LABEL_MADE_BY) == self._settings.instance_id and image.id not in known:
                self._used.record(image.id, used_at=image.created_at)
        for gone in known - {image.id for image in images}:
            self._used.forget(gone)
        in_use = await self._store.in_use()
        for id_ in in_use:
            self._used.used(id_)
        return _Look(at, images, in_use, budgets.parents(images), {image.id for image in images})

    def _order(self, look: _Look) -> list[StoredImage]:
        ours = {
            image.id: self._used.used_at(image.id)
            for image in look.images
            if (pulled_as := self._used.names.get(image.id)) is not None
            and may_go(image.names, pulled_as, self._settings.repository)
        }
        return budgets.leaving(look.images, ours, look.in_use)

    async def _remove(self, image: StoredImage, look: _Look) -> bool:
        # All that is known about who uses it is asked for now: much may have happened since it was listed.
        used = self._used.is_needed(image.id) or self._used.used_at(image.id) > look.at
        if used or image.id in self._held() or look.is_needed(image):
            return False
        with self._used.removing(image.id):
            if not await self._store.remove(image):
                return False
        self._used.forget(image.id)
        look.left.remove(image.id)
        _log.info("image %s makes room", image.names[0] if image.names else image.id)
        return True

    async def _end_pushes(self, images: Sequence[StoredImage]) -> None:
        for image in images:
            if image.labels.get(LABEL_MADE_BY) != self._settings.instance_id:
                continue
            for name in image.names:
                if left_by_push(name, self._settings.repository) and name not in self._pushing():
                    _log.info("%s goes: the push that it was for was killed", name)
                    await self._store.forget_name(name)
