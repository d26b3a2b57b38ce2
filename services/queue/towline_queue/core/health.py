"""How long the queue could be reached without a break: silence before that may be ours, not the agents'."""

from datetime import timedelta

__all__ = ["Health"]


class Health:
    """Observed health of this process and its database.

    Args:
        stall: A gap between two observations from which on the time between them counts as a break: the
            process was stopped, or the database did not answer.
    """

    def __init__(self, stall: timedelta) -> None:
        self._stall_s = stall.total_seconds()
        self._since_s: float | None = None
        self._last_s = 0.0

    def seen_at(self, now_s: float) -> timedelta:
        """Note that all is well at a monotonic moment, in seconds; return for how long it has been."""
        if self._since_s is None or now_s - self._last_s > self._stall_s:
            self._since_s = now_s
        self._last_s = now_s
        return timedelta(seconds=now_s - self._since_s)

    def failed(self) -> None:
        """Note a break."""
        self._since_s = None
