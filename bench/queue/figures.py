"""Figures, each taken several times: medians, ranges, ratios."""

import statistics
from collections import defaultdict
from collections.abc import Sequence
from typing import Self

__all__ = ["Figures", "percentiles"]


class Figures:
    """Values by subject and figure, one for each round."""

    def __init__(self) -> None:
        self.values: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))

    @classmethod
    def read(cls, values: dict[str, dict[str, list[float]]]) -> Self:
        """Make them of their `values`, as JSON keeps those."""
        made = cls()
        for subject, figures in values.items():
            made.values[subject].update(figures)
        return made

    def note(self, subject: str, figure: str, value: float) -> None:
        """Add a round's value."""
        self.values[subject][figure].append(value)

    def median(self, subject: str, figure: str) -> float:
        """Return the median over rounds."""
        return statistics.median(self.values[subject][figure])

    def shown(self, subject: str, figure: str) -> str:
        """Return median and range for a table; nothing where there is no such figure."""
        values = self.values[subject].get(figure)
        if not values:
            return "-"
        digits = 0 if max(values) >= 100 else 1 if max(values) >= 10 else 2
        low, middle, high = (
            f"{one:,.{digits}f}" for one in (min(values), statistics.median(values), max(values))
        )
        return f"{middle} ({low} to {high})"

    def has(self, subject: str, kind: str) -> bool:
        """Return whether there are figures "kind: …" or "kind, …"."""
        return any(figure.startswith((f"{kind}: ", f"{kind}, ")) for figure in self.values[subject])

    def variants(self, subject: str, kind: str) -> list[str]:
        """Return the figures "kind: …"."""
        return [figure for figure in self.values[subject] if figure.startswith(f"{kind}: ")]

    def best(self, subject: str, kind: str) -> str:
        """Return which of the figures "kind: …" has the highest median; of times, "…, p50", the lowest."""
        choose = min if kind.endswith(", p50") else max
        return choose(self.variants(subject, kind), key=lambda figure: self.median(subject, figure))

    def ratio(self, above: tuple[str, str], below: tuple[str, str]) -> float:
        """Return the median over rounds of one (subject, figure) ÷ the other, each in the same round."""
        pairs = zip(self._of(*above), self._of(*below), strict=True)
        return statistics.median(one / other for one, other in pairs)

    def _of(self, subject: str, figure: str) -> list[float]:
        return self.values[subject][figure]


def percentiles(values: Sequence[float]) -> tuple[float, float]:
    """Return the median and the 99th percentile."""
    cuts = statistics.quantiles(values, n=100)
    return cuts[49], cuts[98]
