"""How far a pull or a push is, from what the engine tells of each of its layers."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from towline_agent.core import sizes

__all__ = ["Transfer", "Transfers"]

_CACHED: Final = ("Already exists", "Layer already exists", "Mounted from")
_DONE: Final = ("Pull complete", "Pushed", *_CACHED)
_MOVED: Final = ("Verifying Checksum", "Download complete", "Extracting", *_DONE)
_MOVES: Final = ("Downloading", "Pushing")
_WAITS: Final = ("Pulling fs layer", "Preparing", "Waiting")


@dataclass(frozen=True)
class Transfer:
    """How far the layers of an image are."""

    layers: int = 0
    done: int = 0
    """Of the layers; those that were there count."""
    cached: int = 0
    """Layers that were there already."""
    moved_bytes: int = 0
    total_bytes: int = 0
    """Of the layers that move or have moved, as far as the engine has told."""

    def __str__(self) -> str:
        """Write it for people: "3 of 7 layers, 120.5 of 400.0 MiB"."""
        if not self.layers:
            return "asking its registry"
        done = f"{self.done} of {self.layers} layers"
        return f"{done}, {sizes.part(self.moved_bytes, self.total_bytes)}" if self.total_bytes else done


@dataclass(frozen=True)
class _Layer:
    done: bool = False
    cached: bool = False
    moved_bytes: int = 0
    total_bytes: int = 0


class Transfers:
    """Adds up what an engine tells of one pull or push."""

    def __init__(self) -> None:
        self._layers: dict[str, _Layer] = {}

    def feed(self, item: Mapping[str, Any]) -> Transfer:
        """Take an item of the engine's answer, and return how far all of it is."""
        name, status = str(item.get("id") or ""), str(item.get("status") or "")
        if name and status.startswith((*_WAITS, *_MOVES, *_MOVED)):
            layer = self._layers.get(name, _Layer())
            self._layers[name] = _after(layer, status, item.get("progressDetail") or {})
        layers = self._layers.values()
        return Transfer(
            layers=len(layers),
            done=sum(layer.done for layer in layers),
            cached=sum(layer.cached for layer in layers),
            moved_bytes=sum(layer.moved_bytes for layer in layers),
            total_bytes=sum(layer.total_bytes for layer in layers),
        )


def _after(layer: _Layer, status: str, detail: Mapping[str, int]) -> _Layer:
    if status.startswith(_MOVES):
        moved = max(layer.moved_bytes, detail.get("current", 0))
        # A push tells no total now and then, or less than it moves: the headers of its tar come on top.
        return replace(
            layer, moved_bytes=moved, total_bytes=max(layer.total_bytes, detail.get("total", 0), moved)
        )
    if status.startswith(_MOVED):
        layer = replace(
            layer,
            done=status.startswith(_DONE),
            cached=status.startswith(_CACHED),
            moved_bytes=layer.total_bytes,
        )
    return layer
