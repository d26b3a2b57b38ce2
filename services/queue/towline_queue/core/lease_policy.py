"""How long leases hold: a queue's policy with its defaults, and what a session makes of several."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from towline.durations import written
from towline.errors import InvalidArgument
from towline.v1 import queues_pb2
from towline_queue.core.durations import read_duration

__all__ = ["DEFAULT", "LeasePolicy", "check_policy", "outlasts", "policy_of", "strictest"]

_LONGEST: Final = timedelta(days=30)
# One session speaks for all the queues of an agent, by the shortest times among them: one queue that asks for
# less would have the agent do nothing but heartbeats, or count as silent, for all the others too.
_LEAST: Final = {
    "heartbeat_interval": timedelta(milliseconds=100),
    "disconnected_after": timedelta(milliseconds=300),
    "lost_after": timedelta(seconds=1),
}
_LONGEST_GRACE: Final = timedelta(hours=1)
_STOP_SIGNALS: Final = ("SIGHUP", "SIGINT", "SIGQUIT", "SIGTERM", "SIGUSR1", "SIGUSR2")


@dataclass(frozen=True)
class LeasePolicy:
    """What towline.v1.LeasePolicy says, all set, heartbeat < disconnected < lost."""

    heartbeat_interval: timedelta = timedelta(seconds=5)
    disconnected_after: timedelta = timedelta(seconds=30)
    lost_after: timedelta = timedelta(seconds=120)
    stop_grace: timedelta = timedelta(seconds=15)
    stop_signal: str = "SIGTERM"


DEFAULT: Final = LeasePolicy()


def policy_of(message: queues_pb2.LeasePolicy, field: str = "spec.lease_policy") -> LeasePolicy:
    """Read a queue's policy, defaults filled in.

    Raises:
        InvalidArgument: A time is not positive, is longer than 30 days, the order
            heartbeat_interval < disconnected_after < lost_after does not hold, or the signal is none
            that a program is asked to stop with; it names the field.
    """
    given = {descriptor.name: value for descriptor, value in message.ListFields()}

    def time(name: str, default: timedelta) -> timedelta:
        return read_duration(given[name], f"{field}.{name}", _LONGEST) if name in given else default

    policy = LeasePolicy(
        heartbeat_interval=time("heartbeat_interval", DEFAULT.heartbeat_interval),
        disconnected_after=time("disconnected_after", DEFAULT.disconnected_after),
        lost_after=time("lost_after", DEFAULT.lost_after),
        stop_grace=time("stop_grace", DEFAULT.stop_grace),
        stop_signal=message.stop_signal or DEFAULT.stop_signal,
    )
    if policy.heartbeat_interval <= timedelta(0):
        raise InvalidArgument.field(
            f"{field}.heartbeat_interval", "must be more than 0; leave it out for 5 s"
        )
    if policy.stop_signal not in _STOP_SIGNALS:
        raise InvalidArgument.field(
            f"{field}.stop_signal", f"{policy.stop_signal!r}: give one of {', '.join(_STOP_SIGNALS)}"
        )
    _ordered(policy, field, "heartbeat_interval", "disconnected_after")
    _ordered(policy, field, "disconnected_after", "lost_after")
    return policy


def check_policy(message: queues_pb2.LeasePolicy, field: str = "spec.lease_policy") -> None:
    """Check a policy that a queue is to have from now on.

    Raises:
        InvalidArgument: See `policy_of`; or heartbeat_interval is under 0.1 s, disconnected_after under
            0.3 s, lost_after under 1 s or stop_grace over 1 h; or heartbeats come so seldom that an agent,
            which stops its containers after three quarters of `lost_after`, would stop them between two of
            them.
    """
    policy = policy_of(message, field)
    for name, least in _LEAST.items():
        span = getattr(policy, name)
        if span < least:
            raise InvalidArgument.field(
                f"{field}.{name}", f"is {written(span)}; give {written(least)} or more"
            )
    if policy.stop_grace > _LONGEST_GRACE:
        raise InvalidArgument.field(
            f"{field}.stop_grace", f"is {written(policy.stop_grace)}; give at most {written(_LONGEST_GRACE)}"
        )
    if not outlasts(policy.lost_after, policy.heartbeat_interval):
        raise InvalidArgument.field(
            f"{field}.lost_after",
            f"{written(policy.lost_after)} must be at least twice heartbeat_interval "
            f"({written(policy.heartbeat_interval)}), for a lease must outlast a late heartbeat",
        )


def outlasts(lease: timedelta, heartbeat_interval: timedelta) -> bool:
    """Tell whether a lease of that length is renewed before it ends, even by a heartbeat that is late."""
    return lease >= 2 * heartbeat_interval


def _ordered(policy: LeasePolicy, field: str, shorter: str, longer: str) -> None:
    low, high = getattr(policy, shorter), getattr(policy, longer)
    if not low < high:
        raise InvalidArgument.field(
            f"{field}.{longer}",
            f"{written(high)} must be more than {shorter} ({written(low)})",
        )


def strictest(policies: Iterable[LeasePolicy]) -> LeasePolicy:
    """Combine the policies of the queues that one session serves: each time is the shortest of them.

    One heartbeat speaks for all of them. How long a lease holds, and how a run is stopped, is its own
    queue's matter.
    """
    given = list(policies) or [DEFAULT]
    return LeasePolicy(
        heartbeat_interval=min(policy.heartbeat_interval for policy in given),
        disconnected_after=min(policy.disconnected_after for policy in given),
        lost_after=min(policy.lost_after for policy in given),
        stop_grace=min(policy.stop_grace for policy in given),
    )
