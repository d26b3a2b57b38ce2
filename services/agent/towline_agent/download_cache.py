"""What installations have downloaded and keep for each other on this node, within a budget."""

import logging
import time
from typing import Final

from towline.errors import NotFound
from towline_agent.core import sizes
from towline_agent.core.ancestors import LABEL_ENVIRONMENT
from towline_agent.core.ownership import LABEL_MADE_BY
from towline_agent.core.trimming import CACHE_IS, trimming_files
from towline_agent.engine.port import Engine
from towline_agent.installations import Installation, Installations
from towline_agent.packages import NOTHING
from towline_agent.telling import Tell

__all__ = ["DownloadCache"]

_log = logging.getLogger(__name__)
_EVERY_S: Final = 3600.0
_FIRST_AFTER_S: Final = 600.0
# Where a build that went on has kept it all.
_AGAIN_AFTER_S: Final = 300.0


class DownloadCache:
    """The volume with uv's cache. Only a container can look into it, so it is looked at once an hour.

    Args:
        engine: Has images that a container with it can be made from.
        installations: Run such containers.
        most_bytes: Bound of what is kept.
    """

    def __init__(self, engine: Engine, installations: Installations, most_bytes: int) -> None:
        self._engine = engine
        self._installations = installations
        self._most_bytes = most_bytes
        self._next_s = {most_bytes: time.monotonic() + _FIRST_AFTER_S, 0: 0.0}

    async def tidy(self) -> None:
        """Remove the packages that were used longest ago, where there is too much."""
        await self._trim(self._most_bytes)

    async def empty(self) -> None:
        """Remove all there is."""
        await self._trim(0)

    async def _trim(self, most_bytes: int) -> None:
        if time.monotonic() < self._next_s[most_bytes] or not self._installations.settings.cache_volume:
            return
        mine = {LABEL_ENVIRONMENT: "", LABEL_MADE_BY: self._installations.settings.builder}
        images = await self._engine.images(mine)
        if not images:  # nothing was built here
            return
        self._next_s[most_bytes] = time.monotonic() + _EVERY_S
        log = _Lines()
        try:
            async with self._installations.throw_away(
                self._installations.container(images[0].id)
            ) as container:
                installation = Installation(trimming_files(most_bytes), (), NOTHING)
                refused = await self._installations.run(container, installation, log, Tell(_log.debug))
        except NotFound:  # the image went at this moment
            return
        if refused is not None:
            self._next_s[most_bytes] = time.monotonic() + _AGAIN_AFTER_S
            _log.warning("what builds have downloaded stays: %s", refused.failure.log_tail)
            return
        size = log.text.rpartition(CACHE_IS)[2].strip()
        if size.isdigit():
            _log.info("builds keep %s of downloads", sizes.written(int(size)))


class _Lines:
    """A log that is read at its end."""

    def __init__(self) -> None:
        self._data = b""

    async def write(self, data: bytes) -> None:
        self._data += data

    @property
    def text(self) -> str:
        return self._data.decode(errors="replace")
