"""What agents tell of how an image came about, made fit to keep: it informs people and decides nothing."""

from collections.abc import Iterable
from typing import Final

from google.protobuf.duration_pb2 import Duration

from towline.v1 import runs_pb2

__all__ = ["kept"]

_MOST_STEPS: Final = 32
_LONGEST_NAME: Final = 256
_LONGEST_S: Final = 10_000 * 24 * 3600


def kept(image: runs_pb2.AttemptImage) -> bytes:
    """Return a serialized AttemptImage as agents told it, within the bounds that its fields have."""
    return runs_pb2.AttemptImage(
        size_bytes=max(image.size_bytes, 0),
        duration=_duration(image.duration),
        steps=_steps(image.steps[:_MOST_STEPS]),
    ).SerializeToString()


def _steps(steps: Iterable[runs_pb2.ImageStep]) -> Iterable[runs_pb2.ImageStep]:
    for step in steps:
        yield runs_pb2.ImageStep(
            name=_name(step.name),
            duration=_duration(step.duration),
            pieces=max(step.pieces, 0),
            cached_pieces=max(step.cached_pieces, 0),
            transferred_bytes=max(step.transferred_bytes, 0),
            builder=_name(step.builder),
        )


def _name(text: str) -> str:
    return text[:_LONGEST_NAME]


def _duration(told: Duration) -> Duration:
    """Bound a duration so that every language can read it: none is negative, or longer than 10000 days."""
    if told.seconds < 0 or not 0 <= told.nanos < 1_000_000_000:
        return Duration()
    return Duration(seconds=_LONGEST_S) if told.seconds >= _LONGEST_S else told
