"""Log offset arithmetic: what to skip, what to send, what is still owed."""

from dataclasses import dataclass, field

__all__ = ["SendWindow", "Skipper"]


@dataclass
class Skipper:
    """Drops the first `remaining` bytes of a stream that is read again from its start."""

    remaining: int

    def feed(self, data: bytes) -> bytes:
        """Return what of `data` lies past the part to skip."""
        if self.remaining >= len(data):
            self.remaining -= len(data)
            return b""
        kept = data[self.remaining :]
        self.remaining = 0
        return kept


@dataclass
class SendWindow:
    """Bytes of one log that were written here and not yet acknowledged, by offset."""

    committed: int
    """First offset that the service does not have for sure."""
    sent: int = field(init=False)
    """First offset that was not sent in the current call."""
    _pending: bytearray = field(default_factory=bytearray)

    def __post_init__(self) -> None:
        self.sent = self.committed

    @property
    def written(self) -> int:
        """First offset that was not written here."""
        return self.committed + len(self._pending)

    @property
    def unacknowledged(self) -> int:
        """Bytes held in memory."""
        return len(self._pending)

    @property
    def unsent(self) -> int:
        """Bytes that wait to be sent in the current call."""
        return self.written - self.sent

    def write(self, data: bytes) -> None:
        """Add bytes at the end."""
        self._pending += data

    def take(self, limit: int) -> tuple[int, bytes]:
        """Return the next unsent bytes, at most `limit`, with their offset, and count them as sent."""
        start = self.sent
        data = bytes(self._pending[start - self.committed : start - self.committed + limit])
        self.sent += len(data)
        return start, data

    def acknowledge(self, offset: int) -> None:
        """Forget what lies before `offset`; an older acknowledgement changes nothing.

        Raises:
            ValueError: The service claims bytes that were never written here.
        """
        if offset > self.written:
            raise ValueError(f"acknowledged up to {offset}, written up to {self.written}")
        if offset > self.committed:
            del self._pending[: offset - self.committed]
            self.committed = offset
            self.sent = max(self.sent, offset)

    def rewind(self) -> None:
        """Count everything unacknowledged as unsent: a new call has begun."""
        self.sent = self.committed
