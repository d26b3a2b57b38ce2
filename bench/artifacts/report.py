"""What was measured: a table for people, one object for programs."""

from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any, Final

from bench.artifacts.faults import Resumed
from bench.artifacts.rates import STEPS
from bench.artifacts.trees import Tree

__all__ = ["headline", "table"]

MIB: Final = 1024 * 1024
Rounds = Sequence[Mapping[str, float]]


def headline(
    trees: Mapping[str, Tree], rounds: Mapping[str, Rounds], resumed: Mapping[str, Resumed]
) -> dict[str, Any]:
    """Give the figures by name: medians of the rounds, and what must be true.

    Args:
        trees: "small" and "large".
        rounds: Of each.
        resumed: By who was killed.
    """
    small, large = trees["small"], trees["large"]
    found: dict[str, Any] = {}
    for step in STEPS:
        name = step.replace(" ", "_")
        found[f"{name}_small_files_per_s"] = _rounded(small.files / _seconds(rounds["small"], step))
        found[f"{name}_large_mib_per_s"] = _rounded(large.size_bytes / MIB / _seconds(rounds["large"], step))
    every = [one for some in rounds.values() for one in some]
    sent = sum(median(one["bytes sent"] for one in some) for some in rounds.values())
    found["second_upload_bytes_fraction"] = _rounded(sent / (small.size_bytes + large.size_bytes))
    sent_small = median(one["bytes sent"] for one in rounds["small"])
    found["second_upload_small_bytes_fraction"] = _rounded(sent_small / small.size_bytes)
    for who, ended in resumed.items():
        found[f"resume_{who}_ok"] = ended.ok
        found[f"resume_{who}_bytes_fraction"] = _rounded(ended.bytes_fraction)
    found["identical"] = all(one["identical"] for one in every) and all(
        one.identical for one in resumed.values()
    )
    return found


def table(machine: Mapping[str, Any], trees: Mapping[str, Tree], rounds: Mapping[str, Rounds]) -> str:
    """Write the rates as a table, with how much of each is that of cp."""
    return "\n".join(_lines(machine, trees, rounds))


def _lines(
    machine: Mapping[str, Any], trees: Mapping[str, Tree], rounds: Mapping[str, Rounds]
) -> Iterator[str]:
    yield ", ".join(f"{name} {value}" for name, value in machine.items())
    small, large = trees["small"], trees["large"]
    yield ""
    yield (
        f"{small.files:,} files of {small.size_bytes // small.files:,} bytes, "
        f"and one of {large.size_bytes / MIB:,.0f} MiB; medians of {len(rounds['small'])} rounds"
    )
    yield f"{'':15}{'small [files/s]':>18}{'of cp':>8}{'large [MiB/s]':>18}{'of cp':>8}"
    for step in STEPS:
        cells = [f"{step:15}"]
        for name, amount in (("small", small.files), ("large", large.size_bytes / MIB)):
            rate = amount / _seconds(rounds[name], step)
            share = _seconds(rounds[name], "cp") / _seconds(rounds[name], step)
            cells += [f"{rate:>18,.0f}", f"{share:>8.0%}"]
        yield "".join(cells)


def _seconds(rounds: Rounds, step: str) -> float:
    return median(one[step] for one in rounds)


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
