"""When sessions send heartbeats, and how each of them is carried out.

A heartbeat costs a process about half a millisecond, whatever it says, and half of that where many come at
once. So a crowd of sessions is told to send them more seldom, and in step.
"""

from datetime import timedelta
from typing import Final

from towline.v1 import leases_pb2
from towline_queue.core import session_events as on
from towline_queue.core.lease_policy import DEFAULT, LeasePolicy
from towline_queue.core.leases import SessionKey

__all__ = ["Heartbeats", "Pace"]

_BEATS_PER_S: Final = 250
# With the usual policy less than the 20 s after which gRPC would send pings of its own between them.
_OF_SILENCE: Final = 0.63
_RENEWALS: Final = 6
_CROWD: Final = 200
_LONGEST_WAIT: Final = timedelta(milliseconds=250)
_AT_ONCE: Final = timedelta(0)
_NEAR: Final = (0.8, 1.25)
"""Part of the interval that was told last, within which another is not worth telling."""
_NO_BEAT: Final = leases_pb2.Heartbeat()


class Pace:
    """How often the sessions of one process send heartbeats: more seldom the more they are.

    Often enough, though: an agent counts as unreachable only after a heartbeat that is late by half of the
    interval, and the shortest lease is renewed six times, four of them before its container is stopped.
    """

    __slots__ = ("sessions",)

    def __init__(self) -> None:
        self.sessions = 0
        """How many are open."""

    def interval(self, policy: LeasePolicy) -> timedelta:
        """Return the time between two heartbeats of a session: as its policy says, unless it is crowded."""
        longest = min(policy.disconnected_after * _OF_SILENCE, policy.lost_after / _RENEWALS)
        return max(policy.heartbeat_interval, min(timedelta(seconds=self.sessions / _BEATS_PER_S), longest))

    def patience(self, interval: timedelta) -> timedelta:
        """Return how long a heartbeat that says nothing new may wait for others, to be answered with them."""
        return min(_LONGEST_WAIT, interval / 20) if self.sessions > _CROWD else _AT_ONCE


class Heartbeats:
    """Those of one session.

    Args:
        pace: Of the process.
    """

    __slots__ = ("_look_at_s", "_pace", "_policy", "interval", "last")

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._policy = DEFAULT
        self._look_at_s = float("-inf")
        """When the leases are read again, whatever the agent says."""
        self.interval = DEFAULT.heartbeat_interval
        """What the agent was told last."""
        self.last = _NO_BEAT
        """The one that is being answered, or was answered last."""

    def begin(self, policy: LeasePolicy) -> timedelta:
        """Take the session's policy and return the first interval."""
        self._policy = policy
        self.interval = self._pace.interval(policy)
        return self.interval

    def renew(
        self, session: SessionKey, beat: leases_pb2.Heartbeat, now_s: float, *, alone: bool
    ) -> on.Renew:
        """Have one carried out. A busy agent's come far more often than its leases must be read.

        Args:
            session: Whose it is.
            beat: The heartbeat.
            now_s: As in `SessionProtocol.handle`.
            alone: Whether nothing else was said with it.
        """
        before, self.last = self.last, beat
        look = alone or beat.has_inventory or now_s >= self._look_at_s
        if look:
            self._look_at_s = now_s + self.interval.total_seconds() / 2
        quiet = alone and not beat.has_inventory and _alike(before, beat)
        return on.Renew(session, look, self._pace.patience(self.interval) if quiet else _AT_ONCE)

    def news(self, *, waited: bool) -> timedelta | None:
        """Return the interval to tell with the answer, None: it stays as it is.

        Args:
            waited: Whether it waited for others. They come back together if they count from the answer.
        """
        interval = self._pace.interval(self._policy)
        if not _NEAR[0] < interval / self.interval < _NEAR[1]:
            self.interval = interval
            return interval
        return self.interval if waited else None


def _alike(before: leases_pb2.Heartbeat, beat: leases_pb2.Heartbeat) -> bool:
    """Tell whether a heartbeat says what the one before it said; the first one is no news either."""
    return before is _NO_BEAT or (
        before.free_slots == beat.free_slots
        and before.lease_set_digest == beat.lease_set_digest
        and before.grant_seq_seen == beat.grant_seq_seen
        and before.free_gpu_ids == beat.free_gpu_ids
    )
