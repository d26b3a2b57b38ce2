"""What was done to get an image, thing by thing, and how it is told to the queue service."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from towline.v1 import runs_pb2

__all__ = ["Step", "attempt_image"]

_MOST: Final = 32
_LONGEST_NAME: Final = 256


@dataclass
class Step:
    """One thing that is done for an image; see towline.v1.ImageStep."""

    name: str
    seconds: float = 0.0
    pieces: int = 0
    cached: int = 0
    transferred: int = 0
    """Bytes that came over the network."""
    builder: str = ""
    """Who built what was pulled, "agents/{agent}"."""


def attempt_image(steps: Sequence[Step], seconds: float, size_bytes: int = 0) -> runs_pb2.AttemptImage:
    """Write what was done for an image: in how many seconds all of it, and how large the image is."""
    image = runs_pb2.AttemptImage(size_bytes=size_bytes, steps=[_message(step) for step in steps[:_MOST]])
    image.duration.FromTimedelta(timedelta(seconds=seconds))
    return image


def _message(step: Step) -> runs_pb2.ImageStep:
    message = runs_pb2.ImageStep(
        name=step.name[:_LONGEST_NAME],
        pieces=step.pieces,
        cached_pieces=step.cached,
        transferred_bytes=step.transferred,
        builder=step.builder,
    )
    message.duration.FromTimedelta(timedelta(seconds=step.seconds))
    return message
