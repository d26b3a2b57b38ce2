"""What the random world of a model is made of: how long things take there."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Conditions:
    """One of each, in seconds, is chosen at random whenever it is needed."""

    latencies: tuple[float, ...] = (0.001, 0.001, 0.02, 0.5, 4.0)
    """What a connection's messages take, give or take a half."""
    images: tuple[float, ...] = (0.0, 0.5, 10.0)
    """What it takes to get an image."""
    lifetimes: tuple[float, ...] = (0.0, 2.0, 20.0, 150.0, 400.0)
    """What containers take to end by themselves."""
    stubborn: float = 0.2
    """The share of containers that take no notice of a stop signal."""


# What happens to a run mostly happens before its container starts.
SLOW_IMAGES = Conditions(images=(3.0, 60.0))

# Containers last until somebody ends them, and a run that is taken back is at once at work elsewhere: a lease
# that is trusted for a moment too long shows.
TIGHT = Conditions(latencies=(0.02, 1.0), images=(0.0,), lifetimes=(400.0,), stubborn=0.5)
