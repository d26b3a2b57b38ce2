"""The few figures that say it all, from those of all rounds."""

from typing import Any, Final

from bench.queue.figures import Figures

__all__ = ["backlog_headline", "comparison_headline", "scale_headline"]

TOWLINE: Final = "towline"
P50: Final = "dispatch, p50"


def comparison_headline(figures: Figures) -> dict[str, float]:
    """Give Towline's figures, and their ratios to the others' in the same rounds."""
    others = [name for name in figures.values if name != TOWLINE]
    found: dict[str, float] = {}
    for kind in ("submit", "drain"):
        if not figures.has(TOWLINE, kind):
            continue
        best = figures.best(TOWLINE, kind)
        found[f"{kind}_per_s"] = figures.median(TOWLINE, best)
        for other in others:
            against = (other, figures.best(other, kind))
            found[f"{kind}_ratio_vs_{other}"] = figures.ratio((TOWLINE, best), against)
    for prefix, key in (("dispatch", "dispatch"), ("dispatch under half load", "half_load_dispatch")):
        if not figures.has(TOWLINE, prefix):
            continue
        best = figures.best(TOWLINE, f"{prefix}, p50")
        found[f"{key}_p50_ms"] = figures.median(TOWLINE, best)
        found[f"{key}_p99_ms"] = figures.median(TOWLINE, best.replace("p50", "p99"))
        for other in others:
            against = (other, figures.best(other, f"{prefix}, p50"))
            found[f"{key}_p50_ratio_vs_{other}"] = figures.ratio((TOWLINE, best), against)
    return found


def backlog_headline(figures: Figures) -> dict[str, float]:
    """Give what a deep queue and a held snapshot change: ratios to the shallow queue, in the same rounds."""
    found: dict[str, float] = {}
    for name, key in (("deep", "deep"), ("held", "held_snapshot")):
        for figure, short in (("drain", "drain"), (P50, "dispatch")):
            found[f"{key}_{short}_ratio"] = figures.ratio((name, figure), ("shallow", figure))
    return found


def scale_headline(scale: dict[str, Any]) -> dict[str, float]:
    """Give what many agents cost."""
    return {
        "sessions": scale["sessions"],
        "rss_per_session_kib": scale["rss_per_session_kib"],
        "idle_cpu_fraction": scale["idle_cpu"]["queue"],
        "storm_seconds": scale["storm"]["seconds"],
        "storm_lost": scale["storm"]["lost"],
    }
