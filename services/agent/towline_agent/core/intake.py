"""Whether this node takes runs now, and what it has free for them."""

from typing import Final

from towline.v1 import leases_pb2
from towline_agent.core.capacity import Capacity, Credits

__all__ = ["Intake"]

# How long a data folder that could not be written is left alone, and its node offers nothing.
_DISK_PAUSE_S: Final = 5.0
_NEVER: Final = float("inf")


class Intake:
    """What stands between a grant and its place on the node; moments are seconds of CLOCK_BOOTTIME.

    Args:
        capacity: What the node has.
    """

    def __init__(self, capacity: Capacity) -> None:
        self.capacity = capacity
        self.generation = 0
        """Rises when credits change for another reason than a grant."""
        self.draining = False
        self.engine_ready = False
        self.no_space = ""
        """Why new runs have no room on the disks; empty: they have."""
        self._closed_until = _NEVER
        """When the data folder is tried again; infinity: nothing is wrong with it."""

    def credits(self, held: list[leases_pb2.Grant]) -> Credits:
        """Return what is free beside the grants that hold a place."""
        accepting = not self.draining and not self.withheld
        return self.capacity.credits([grant.gpu_ids for grant in held], accepting=accepting)

    @property
    def withheld(self) -> str:
        """Return why nothing is taken now whatever is free, for people; empty: that is not so."""
        if not self.engine_ready:
            return "its Docker Engine does not answer"
        if self._closed_until != _NEVER:
            return "its data folder cannot be written"
        return self.no_space

    def refusal(self, grant: leases_pb2.Grant, held: list[leases_pb2.Grant]) -> str:
        """Say why a grant cannot be taken; empty: it can."""
        if self.draining:
            return "the agent drains"
        if self.withheld:
            return self.withheld
        if grant.spec.WhichOneof("resource") != "docker":
            return "the run is not for Docker"
        return self.capacity.refusal(grant.gpu_ids, self.credits(held))

    def changed(self) -> None:
        """Note that a place has become free."""
        self.generation += 1

    def engine(self, *, ready: bool) -> None:
        """Note whether the engine answers; nothing is taken while it does not."""
        if ready != self.engine_ready:
            self.engine_ready = ready
            self.changed()

    def space(self, lacking: str) -> None:
        """Note why the disks have no room for new runs, for people; empty: they have."""
        if lacking != self.no_space:
            self.no_space = lacking
            self.changed()

    def drain(self) -> None:
        """Take nothing any more."""
        self.draining = True
        self.changed()

    def disk_failed(self, now: float) -> float:
        """Offer nothing for a while, as the data folder cannot be written; return when to try it again."""
        self._closed_until = now + _DISK_PAUSE_S
        self.changed()
        return self._closed_until

    def tick(self, now: float) -> None:
        """Open again when it is time."""
        if now >= self._closed_until:
            self._closed_until = _NEVER
            self.changed()

    @property
    def next_tick(self) -> float:
        """Return when `tick` has something to do, infinity if never."""
        return self._closed_until
