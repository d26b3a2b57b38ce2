"""Launch specs in PostgreSQL: what all runs of a kind share is one row by its digest, never removed."""

from collections.abc import Iterable
from typing import Final

from towline_queue.core.kinds import Kind
from towline_queue.recently_used import RecentlyUsed

__all__ = ["KnownSpecs"]

_MOST: Final = 65_536


class KnownSpecs:
    """Which launch specs are certain to be there, so that they are not sent again."""

    def __init__(self) -> None:
        self._digests: RecentlyUsed[bytes, bool] = RecentlyUsed(_MOST)

    def missing(self, kinds: Iterable[Kind]) -> list[Kind]:
        """Return those whose specs may not be there yet, one of each digest."""
        return list({kind.digest: kind for kind in kinds if not self._digests.get(kind.digest)}.values())

    def committed(self, kinds: Iterable[Kind]) -> None:
        """Note that the specs of these are there."""
        for kind in kinds:
            self._digests.keep(kind.digest, True)
