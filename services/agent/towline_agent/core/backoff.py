"""How long to wait before trying again."""

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Backoff"]


@dataclass
class Backoff:
    """Doubling waits with full jitter: each is a random part of a bound that doubles up to `cap`."""

    random: Callable[[], float]
    """Gives a number in [0, 1)."""
    base: float = 0.2
    """First bound in seconds."""
    cap: float = 10.0
    """Largest bound in seconds."""
    failures: int = 0
    """Failures since the last success."""

    def failed(self) -> float:
        """Count a failure and return how many seconds to wait; at least a tenth of the bound."""
        # 2**30 is past every sensible cap; the exponent stays small however long the outage.
        bound = min(self.cap, self.base * float(2 ** min(self.failures, 30)))
        self.failures += 1
        return bound * (0.1 + 0.9 * self.random())

    def succeeded(self) -> None:
        """Start over."""
        self.failures = 0
