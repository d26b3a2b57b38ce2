"""A memory with a bound: what was used longest ago goes first."""

from collections import OrderedDict
from typing import Generic, TypeVar

__all__ = ["RecentlyUsed"]

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


class RecentlyUsed(Generic[_Key, _Value]):
    """Values by key.

    Args:
        most: Bound of the weights of what is kept.
    """

    def __init__(self, most: int) -> None:
        self._free = most
        self._kept: OrderedDict[_Key, tuple[_Value, int]] = OrderedDict()

    def __contains__(self, key: _Key) -> bool:
        return key in self._kept

    def get(self, key: _Key) -> _Value | None:
        """Return what is kept; it counts as used."""
        kept = self._kept.get(key)
        if kept is None:
            return None
        self._kept.move_to_end(key)
        return kept[0]

    def keep(self, key: _Key, value: _Value, weight: int = 1) -> None:
        """Keep a value in place of what was there; one that is heavier than the bound is not kept."""
        self.drop(key)
        self._kept[key] = (value, weight)
        self._free -= weight
        while self._free < 0:
            _, (_, dropped) = self._kept.popitem(last=False)
            self._free += dropped

    def drop(self, key: _Key) -> None:
        """Forget a value, if it is there."""
        if (kept := self._kept.pop(key, None)) is not None:
            self._free += kept[1]
