"""What is told with an artifact version, and how far its transfer is."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeAlias

__all__ = ["About", "Doing", "Moved", "TreeProgress", "Watch"]


@dataclass(frozen=True)
class About:
    """What is told with an artifact version besides its files.

    Args:
        aliases: To set on it, besides "latest".
        metadata: What JSON can hold, at most 64 KiB.
        producer_run: The run that made it; empty: made by hand.
        producer_job_version: The job version whose recording or run made it; empty: not told.
        request_id: UUID under which the version is made once, however often that is tried; empty: a new one.
    """

    aliases: Sequence[str] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)
    producer_run: str = ""
    producer_job_version: str = ""
    request_id: str = ""


class Doing(StrEnum):
    """What a transfer is at."""

    READING = "reading"
    SENDING = "sending"
    COMPARING = "comparing"
    RECEIVING = "receiving"


@dataclass(frozen=True)
class Moved:
    """How far the transfer of a tree is; files and bytes count from zero in each phase.

    Args:
        doing: The phase.
        files: Files done; those that need not move in this phase are done from its start.
        all_files: Files of the tree.
        size_bytes: Bytes of files that are done and of those that are moving.
        all_bytes: Bytes of the tree.
    """

    doing: Doing
    files: int
    all_files: int
    size_bytes: int
    all_bytes: int


# Called often, in the event loop; of `Client`, in a thread of its own.
TreeProgress: TypeAlias = Callable[[Moved], None]


class Watch:
    """Counts what a transfer does and tells it.

    Args:
        tell: Is told; None: nobody is.
        all_files: Files of the tree.
        all_bytes: Bytes of the tree.
    """

    def __init__(self, tell: TreeProgress | None, all_files: int, all_bytes: int) -> None:
        self._tell = tell
        self._all_files = all_files
        self._all_bytes = all_bytes
        self.begin(Doing.READING)

    def begin(self, doing: Doing) -> None:
        """Enter a phase."""
        self._doing = doing
        self._files = self._bytes = 0

    def done(self, files: int, size_bytes: int) -> None:
        """Count files, and bytes that were not counted while they moved."""
        self._files += files
        self._bytes += size_bytes
        if self._tell:
            self._tell(Moved(self._doing, self._files, self._all_files, self._bytes, self._all_bytes))
