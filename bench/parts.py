"""Which parts of a benchmark are measured: the words of `--only`."""

import argparse
from collections.abc import Callable, Iterable

__all__ = ["parts_of"]


def parts_of(known: Iterable[str]) -> Callable[[str], set[str]]:
    """Make the type of an argument that names some of the parts, with commas between them."""

    def parts(text: str) -> set[str]:
        chosen = set(text.split(","))
        if unknown := chosen.difference(known):
            raise argparse.ArgumentTypeError(f"no such part: {', '.join(sorted(unknown))}")
        return chosen

    return parts
