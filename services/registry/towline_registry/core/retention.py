"""Which versions are kept."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from towline.errors import InvalidArgument
from towline.v1.jobs_pb2 import RetentionPolicy

__all__ = ["Retention"]

_LONGEST: Final = timedelta(days=100 * 365)


@dataclass(frozen=True)
class Retention:
    """Rules of which each keeps versions; without any, all are kept.

    Args:
        keep_newest: So many of the newest; None: no such rule.
        keep_for: Those that are younger; None: no such rule.
    """

    keep_newest: int | None = None
    keep_for: timedelta | None = None

    @classmethod
    def checked(cls, policy: RetentionPolicy | None) -> "Retention":
        """Read the policy of a request; None: keep everything.

        Raises:
            InvalidArgument: A rule is out of bounds, or there is none; names `retention` or the rule in it.
        """
        if policy is None:
            return cls()
        if not policy.keep_newest and not policy.HasField("keep_for"):
            raise InvalidArgument.field(
                "retention",
                "has no rule, so nothing would be kept; set keep_newest or keep_for, or leave it out",
            )
        if policy.keep_newest < 0:
            raise InvalidArgument.field(
                "retention.keep_newest", f"{policy.keep_newest} is negative; write how many are kept"
            )
        keep_for = None
        if policy.HasField("keep_for"):
            seconds = policy.keep_for.seconds
            if not 0 < seconds <= _LONGEST.total_seconds():
                raise InvalidArgument.field(
                    "retention.keep_for", f"{seconds} s is not within one second and a hundred years"
                )
            keep_for = policy.keep_for.ToTimedelta()
        return cls(policy.keep_newest or None, keep_for)

    def policy(self) -> RetentionPolicy | None:
        """Write it as a policy; None: keep everything."""
        if self.keep_newest is None and self.keep_for is None:
            return None
        made = RetentionPolicy(keep_newest=self.keep_newest or 0)
        if self.keep_for is not None:
            made.keep_for.FromTimedelta(self.keep_for)
        return made
