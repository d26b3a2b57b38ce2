"""What an engine keeps on its disks, as Docker tells, for those who tidy there."""

import asyncio
import json
from typing import Any, Final, Protocol

from aiodocker import Docker

from towline.errors import AlreadyExists, NotFound
from towline_agent.core.budgets import StoredImage
from towline_agent.engine.errors import translated

__all__ = ["DockerStore", "ImageStore"]

_ANSWER_S: Final = 30.0
# Engines that leave their images to containerd keep them in its folder, which they do not tell.
_CONTAINERD: Final = ("driver-type", "io.containerd.snapshotter.v1")
_CONTAINERD_ROOT: Final = "/var/lib/containerd"


class ImageStore(Protocol):
    """Images of an engine. Errors are those of `Engine`."""

    async def images(self) -> list[StoredImage]:
        """Return all images on the node that have a name or none was made from."""
        ...

    async def in_use(self) -> frozenset[str]:
        """Return the ids of images that containers have, ended ones too."""
        ...

    async def remove(self, image: StoredImage) -> bool:
        """Take an image's names from it, and with the last one the image.

        False: it stays, as a container uses it, or its names are others than they were.
        """
        ...

    async def forget_name(self, name: str) -> None:
        """Take one of several names from an image."""
        ...

    async def roots(self) -> tuple[str, ...]:
        """Return the folders on its machine in which it keeps images, volumes and containers."""
        ...


class DockerStore:
    """The ImageStore of Docker's API.

    Args:
        client: The connection.
    """

    def __init__(self, client: Docker) -> None:
        self._client = client
        self._layers: dict[str, tuple[str, ...]] = {}
        """Of each image by its id, which never change."""

    async def images(self) -> list[StoredImage]:
        """See ImageStore."""
        listed = await self._get("images/json")
        found = [(item, await self._layers_of(item["Id"])) for item in listed]
        self._layers = {item["Id"]: layers for item, layers in found if layers is not None}
        return [_stored(item, layers) for item, layers in found if layers is not None]

    async def _layers_of(self, image: str) -> tuple[str, ...] | None:
        if image in self._layers:
            return self._layers[image]
        try:
            found = await self._get(f"images/{image}/json")
        except NotFound:
            return None
        return tuple((found.get("RootFS") or {}).get("Layers") or ())

    async def in_use(self) -> frozenset[str]:
        """See ImageStore."""
        return frozenset(item["ImageID"] for item in await self._get("containers/json", all="1"))

    async def remove(self, image: StoredImage) -> bool:
        """See ImageStore."""
        try:
            for name in image.names or (image.id,):
                # A name goes from whatever has it now, which somebody may have pulled or tagged since.
                if not await self._is_called(name, image):
                    return False
                await self.forget_name(name)
        except AlreadyExists:  # (409)
            return False
        return True

    async def _is_called(self, name: str, image: StoredImage) -> bool:
        """Tell whether an image still has a name, or by its id, whether it still has none."""
        try:
            found = await self._get(f"images/{name}/json")
        except NotFound:
            return False
        return bool(found["Id"] == image.id and (name != image.id or not found.get("RepoTags")))

    async def forget_name(self, name: str) -> None:
        """See ImageStore."""
        try:
            # Large ones take their time: no deadline.
            with translated("image"):
                async with self._client._query(f"images/{name}", "DELETE"):
                    return
        except NotFound:
            return

    async def roots(self) -> tuple[str, ...]:
        """See ImageStore."""
        info = await self._get("info")
        of_containerd = list(_CONTAINERD) in (info.get("DriverStatus") or [])
        return (info["DockerRootDir"], *([_CONTAINERD_ROOT] if of_containerd else []))

    async def _get(self, path: str, **params: str) -> Any:
        with translated("image"):
            async with asyncio.timeout(_ANSWER_S), self._client._query(path, params=params) as response:
                return json.loads(await response.read())


def _stored(item: dict[str, Any], layers: tuple[str, ...]) -> StoredImage:
    tags = [name for name in item.get("RepoTags") or () if not name.endswith("<none>")]
    digests = [name for name in item.get("RepoDigests") or () if not name.startswith("<none>")]
    # The digest that a tag was pulled by goes with the tag.
    repositories = {tag.rpartition(":")[0] for tag in tags}
    digests = [name for name in digests if name.partition("@")[0] not in repositories]
    return StoredImage(
        id=item["Id"],
        names=(*tags, *digests),
        labels=item.get("Labels") or {},
        layers=layers,
        size=item["Size"],
        created_at=float(item["Created"]),
    )
