"""What an agent could take now: its last word, less the grants it had not heard of when it spoke."""

from collections.abc import Sequence, Set
from dataclasses import dataclass

__all__ = ["Credits", "GrantedSlot"]


@dataclass(frozen=True)
class GrantedSlot:
    """A grant that the agent's last word does not account for."""

    seq: int
    gpu_ids: tuple[str, ...]


class Credits:
    """The credits of one session: absolute as told, so that nothing lost or repeated makes them drift."""

    def __init__(self) -> None:
        self._generation = -1
        self._free_slots = 0
        self._free_gpus: frozenset[str] = frozenset()
        self._unseen: list[GrantedSlot] = []
        self._last_seq = 0

    def told(self, generation: int, free_slots: int, free_gpus: Set[str], grant_seq_seen: int) -> None:
        """Take an agent's word; one of an older generation than the last is out of date and ignored."""
        if generation < self._generation:
            return
        self._generation = generation
        self._free_slots = max(free_slots, 0)
        self._free_gpus = frozenset(free_gpus)
        self._unseen = [grant for grant in self._unseen if grant.seq > grant_seq_seen]

    def take(self, gpu_ids: Sequence[str]) -> int:
        """Spend one slot and these GPUs; return the grant's sequence number."""
        self._last_seq += 1
        self._unseen.append(GrantedSlot(self._last_seq, tuple(gpu_ids)))
        return self._last_seq

    def give_back(self, seq: int) -> None:
        """Undo a `take` whose grant was not made."""
        self._unseen = [grant for grant in self._unseen if grant.seq != seq]

    def distrust(self) -> None:
        """Spend everything until the agent speaks again: the database disagrees with its last word."""
        self._free_slots, self._free_gpus = 0, frozenset()

    @property
    def free_slots(self) -> int:
        """Attempts it could take now."""
        return max(self._free_slots - len(self._unseen), 0)

    @property
    def free_gpus(self) -> frozenset[str]:
        """GPUs that are free now."""
        return self._free_gpus.difference(*(grant.gpu_ids for grant in self._unseen))
