"""What a training script imports; shipped into containers, so standard library only."""

__all__ = ["Run", "init"]


class Run:
    """A run as its program sees it."""


def init() -> Run:
    """Start a run."""
    return Run()
