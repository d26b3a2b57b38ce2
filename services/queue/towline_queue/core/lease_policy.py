"""How long leases hold: a queue's policy with its defaults, and what a session makes of several."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from towline.errors import InvalidArgument
from towline.v1 import queues_pb2

__all__ = ["DEFAULT", "LeasePolicy", "policy_of", "strictest"]

_LONGEST: Final = timedelta(days=30)


@dataclass(frozen=True)
class LeasePolicy:
    """The times of towline.v1.LeasePolicy, all set, heartbeat < disconnected < lost."""

    heartbeat_interval: timedelta = timedelta(seconds=5)
    disconnected_after: timedelta = timedelta(seconds=30)
    lost_after: timedelta = timedelta(seconds=120)
    stop_grace: timedelta = timedelta(seconds=15)


DEFAULT: Final = LeasePolicy()


def policy_of(message: queues_pb2.LeasePolicy, field: str = "spec.lease_policy") -> LeasePolicy:
    """Read a queue's policy, defaults filled in.

    Raises:
        InvalidArgument: A time is not positive, is longer than 30 days, or the order
            heartbeat_interval < disconnected_after < lost_after does not hold; it names the field.
    """
    given = {descriptor.name: value for descriptor, value in message.ListFields()}

    def time(name: str, default: timedelta) -> timedelta:
        value = given.get(name)
        if value is None:
            return default
        if value.seconds > _LONGEST.total_seconds():
            raise InvalidArgument.field(f"{field}.{name}", f"is over {_LONGEST.days} days; give less")
        span: timedelta = value.ToTimedelta()
        return span

    policy = LeasePolicy(
        heartbeat_interval=time("heartbeat_interval", DEFAULT.heartbeat_interval),
        disconnected_after=time("disconnected_after", DEFAULT.disconnected_after),
        lost_after=time("lost_after", DEFAULT.lost_after),
        stop_grace=time("stop_grace", DEFAULT.stop_grace),
    )
    if policy.heartbeat_interval <= timedelta(0):
        raise InvalidArgument.field(
            f"{field}.heartbeat_interval", "must be more than 0; leave it out for 5 s"
        )
    if policy.stop_grace < timedelta(0):
        raise InvalidArgument.field(f"{field}.stop_grace", "must not be negative; leave it out for 15 s")
    _ordered(policy, field, "heartbeat_interval", "disconnected_after")
    _ordered(policy, field, "disconnected_after", "lost_after")
    return policy


def _ordered(policy: LeasePolicy, field: str, shorter: str, longer: str) -> None:
    low, high = getattr(policy, shorter), getattr(policy, longer)
    if not low < high:
        raise InvalidArgument.field(
            f"{field}.{longer}",
            f"{high.total_seconds():g} s must be more than {shorter} ({low.total_seconds():g} s)",
        )


def strictest(policies: Iterable[LeasePolicy]) -> LeasePolicy:
    """Combine the policies of the queues that one session serves: each time is the shortest of them.

    One renewal covers all leases of a session, so it may promise no more than the queue that waits least.
    """
    given = list(policies) or [DEFAULT]
    return LeasePolicy(
        heartbeat_interval=min(policy.heartbeat_interval for policy in given),
        disconnected_after=min(policy.disconnected_after for policy in given),
        lost_after=min(policy.lost_after for policy in given),
        stop_grace=min(policy.stop_grace for policy in given),
    )
