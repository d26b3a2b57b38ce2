"""The leases in an agent's hands: what there is to tell of them. What happens to them is leases.py's."""

from typing import Final

from towline.v1 import leases_pb2
from towline_agent.core.lease import Key, Lease
from towline_agent.core.phases import Phase, occupies
from towline_agent.core.stops import Window

__all__ = ["Holdings"]

# The queue service needs to hear of these no more.
_SETTLED: Final = frozenset({Phase.CONFIRMED, Phase.DROPPED, Phase.GONE})


class Holdings:
    """All leases of one agent; those returned are not to be changed."""

    def __init__(self) -> None:
        self._leases: dict[Key, Lease] = {}

    @property
    def leases(self) -> list[Lease]:
        """Return all, oldest first."""
        return list(self._leases.values())

    def find(self, key: Key) -> Lease | None:
        """Return one."""
        return self._leases.get(key)

    def inventory(self) -> list[Lease]:
        """Return the leases that the queue service is told of: all but those that it needs no more."""
        return [lease for lease in self.leases if lease.phase not in _SETTLED]

    def unconfirmed(self) -> list[leases_pb2.Finish]:
        """Return the results that are ready to be sent and that nobody has confirmed."""
        return [lease.finish for lease in self.leases if lease.phase is Phase.FINISHED and lease.finish]

    def released(self) -> list[Lease]:
        """Return the leases to give back whose return nobody has acknowledged."""
        return [lease for lease in self.leases if lease.phase is Phase.RELEASED]

    def windows(self) -> dict[Key, Window]:
        """Return when containers are to be stopped and killed: of all leases whose container may run."""
        return {lease.key: lease.window for lease in self.leases if lease.at_risk}

    def placed(self) -> list[leases_pb2.Grant]:
        """Return the grants that hold a slot and GPUs."""
        return [lease.grant for lease in self.leases if occupies(lease.phase)]

    def of_run(self, run: str) -> list[Lease]:
        """Return a run's, oldest first."""
        return [lease for lease in self.leases if lease.spec.run == run]
