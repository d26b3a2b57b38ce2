"""What runs share of their launch specs, kept in memory: rows of `launch_specs`, which never change."""

from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

from towline_queue.storage.database import Database

__all__ = ["SharedSpecs"]

_MOST_BYTES: Final = 32 * 1024 * 1024


class SharedSpecs:
    """The specs that were used last, by digest, up to a total size.

    Args:
        database: The way to PostgreSQL.
        most_bytes: Of all specs together.
    """

    def __init__(self, database: Database, *, most_bytes: int = _MOST_BYTES) -> None:
        self._database = database
        self._specs: OrderedDict[bytes, bytes] = OrderedDict()
        self._bytes = 0
        self._most_bytes = most_bytes

    async def of(self, digests: Iterable[bytes]) -> dict[bytes, bytes]:
        """Return the specs, serialized, of these digests; those that are not known are read."""
        found: dict[bytes, bytes] = {}
        missing = []
        for digest in set(digests):
            spec = self._specs.get(digest)
            if spec is None:
                missing.append(digest)
            else:
                self._specs.move_to_end(digest)
                found[digest] = spec
        if missing:
            for row in await self._database.rows("shared_specs", digests=missing):
                found[row["digest"]] = row["spec"]
                self._keep(row["digest"], row["spec"])
        return found

    def _keep(self, digest: bytes, spec: bytes) -> None:
        self._specs[digest] = spec
        self._bytes += len(spec)
        while self._bytes > self._most_bytes:
            _, oldest = self._specs.popitem(last=False)
            self._bytes -= len(oldest)
