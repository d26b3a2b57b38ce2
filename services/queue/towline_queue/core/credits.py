"""What an agent could take now: its last word, less the grants it had not heard of when it spoke."""

from collections.abc import Iterable, Sequence, Set

__all__ = ["Credits"]


class Credits:
    """The credits of one session: absolute as told, so that nothing lost or repeated makes them drift."""

    __slots__ = (
        "_free_gpus",
        "_free_slots",
        "_generation",
        "_held_gpus",
        "_held_slots",
        "_last_seq",
        "_unseen",
    )

    def __init__(self) -> None:
        self._generation = -1
        self._free_slots = 0
        self._free_gpus: frozenset[str] = frozenset()
        self._unseen: dict[int, tuple[str, ...]] = {}
        """The GPUs of each grant, by sequence number, that the agent's last word does not account for."""
        self._last_seq = 0
        self._held_slots = 0
        self._held_gpus: set[str] = set()

    def told(self, generation: int, free_slots: int, free_gpus: Set[str], grant_seq_seen: int) -> None:
        """Take an agent's word; one of an older generation than the last is out of date and ignored."""
        if generation < self._generation:
            return
        self._generation = generation
        self._free_slots = max(free_slots, 0)
        self._free_gpus = frozenset(free_gpus)
        if grant_seq_seen >= self._last_seq:
            self._unseen.clear()
        else:
            self._unseen = {seq: gpus for seq, gpus in self._unseen.items() if seq > grant_seq_seen}

    def hold(self, slots: int, gpu_ids: Iterable[str]) -> None:
        """Keep slots and GPUs for runs that are being claimed: nothing that is said meanwhile frees them."""
        self._held_slots += slots
        self._held_gpus.update(gpu_ids)

    def release(self) -> None:
        """End all holds: the claim is over."""
        self._held_slots = 0
        self._held_gpus.clear()

    def take(self, gpu_ids: Sequence[str]) -> int:
        """Spend one slot and these GPUs; return the grant's sequence number."""
        self._last_seq += 1
        self._unseen[self._last_seq] = tuple(gpu_ids)
        return self._last_seq

    def distrust(self) -> None:
        """Spend everything until the agent speaks again: the database disagrees with its last word."""
        self._free_slots, self._free_gpus = 0, frozenset()

    @property
    def free_slots(self) -> int:
        """Attempts it could take now."""
        return max(self._free_slots - len(self._unseen) - self._held_slots, 0)

    @property
    def free_gpus(self) -> frozenset[str]:
        """GPUs that are free now."""
        if not self._free_gpus:
            return self._free_gpus
        return self._free_gpus.difference(self._held_gpus, *self._unseen.values())
