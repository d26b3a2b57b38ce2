"""Slots and GPUs: what is free, and whether a grant fits."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from towline.v1 import leases_pb2

__all__ = ["Capacity", "Credits", "lease_set_digest"]


@dataclass(frozen=True)
class Credits:
    """What could be taken now."""

    slots: int
    gpu_ids: tuple[str, ...]


@dataclass(frozen=True)
class Capacity:
    """What the node has in all."""

    slots: int
    gpus: tuple[leases_pb2.Gpu, ...]

    def credits(self, held: Iterable[Sequence[str]], *, accepting: bool) -> Credits:
        """Count what is free.

        Args:
            held: GPU ids of each attempt that occupies a slot.
            accepting: False while the engine is away or the agent drains: nothing is free then.
        """
        if not accepting:
            return Credits(0, ())
        taken = [tuple(gpu_ids) for gpu_ids in held]
        busy = {gpu_id for gpu_ids in taken for gpu_id in gpu_ids}
        free = tuple(gpu.id for gpu in self.gpus if gpu.id not in busy)
        return Credits(max(0, self.slots - len(taken)), free)

    def refusal(self, gpu_ids: Sequence[str], credits: Credits) -> str:
        """Say why a grant with these GPUs does not fit; empty if it does."""
        if credits.slots < 1:
            return "no slot is free"
        if len(set(gpu_ids)) != len(gpu_ids):
            return f"a GPU is granted twice: {', '.join(gpu_ids)}"
        busy = [gpu_id for gpu_id in gpu_ids if gpu_id not in credits.gpu_ids]
        return f"GPU {', '.join(busy)} is not free on this node" if busy else ""


def lease_set_digest(leases: Iterable[tuple[str, int]]) -> str:
    """Digest (lease id, epoch) pairs as Heartbeat.lease_set_digest asks: sha256, hex, of sorted lines."""
    lines = sorted(f"{lease_id}:{epoch}\n" for lease_id, epoch in leases)
    return hashlib.sha256("".join(lines).encode()).hexdigest()
