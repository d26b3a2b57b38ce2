"""The results as a table for people."""

from collections.abc import Iterator
from typing import Any, Final

from bench.queue.figures import Figures

__all__ = ["table"]

WIDTH: Final = 30
LABEL: Final = 38
COSTS: Final = ("CPU of client", "CPU of services", "CPU of postgresql", "WAL bytes", "database bytes")


def table(results: dict[str, Any]) -> str:
    """Render all that was measured."""
    lines = list(_head(results))
    if "comparison" in results:
        lines += _comparison(Figures.read(results["comparison"]))
    if "backlog" in results:
        lines += _backlog(Figures.read(results["backlog"]), results["parameters"])
    if "scale" in results:
        lines += _scale(results["scale"])
    lines += ["", "headline"]
    lines += [f"  {name:<{LABEL}}{_number(value):>12}" for name, value in results["headline"].items()]
    return "\n".join(lines)


def _head(results: dict[str, Any]) -> Iterator[str]:
    machine, versions = results["machine"], results["versions"]
    yield f"{machine['cores']} cores of {machine['processor']} and {machine['memory_gib']} GiB, which client,"
    yield f"services and PostgreSQL {machine['postgresql']} share (fsync {machine['fsync']},"
    yield f"synchronous_commit {machine['synchronous_commit']}, otherwise as it comes)."
    yield "Medians over rounds (range)."
    yield ", ".join(f"{name} {number}" for name, number in sorted(versions.items()))


def _comparison(figures: Figures) -> Iterator[str]:
    systems = list(figures.values)
    yield ""
    yield f"{'':{LABEL}}" + "".join(f"{name:>{WIDTH}}" for name in systems)
    for kind in ("submit", "drain"):
        if not any(figures.has(name, kind) for name in systems):
            continue
        best = {name: figures.best(name, kind) for name in systems}
        yield _row(f"{kind}, at its best [runs/s]", [figures.shown(name, best[name]) for name in systems])
        yield _row("  with", [best[name].partition(": ")[2] for name in systems])
        for cost in COSTS:
            label = f"  {cost} per run{' [µs]' if 'CPU' in cost else ''}"
            names = {name: best[name].replace(kind, f"{kind} {cost}", 1) for name in systems}
            yield _row(label, [figures.shown(name, names[name]) for name in systems])
    for kind in ("dispatch", "dispatch under half load"):
        if not any(figures.has(name, kind) for name in systems):
            continue
        best = {name: figures.best(name, f"{kind}, p50") for name in systems}
        for percentile in ("p50", "p99"):
            names = {name: best[name].replace("p50", percentile) for name in systems}
            yield _row(f"{kind}, {percentile} [ms]", [figures.shown(name, names[name]) for name in systems])
        yield _row("  with", [best[name].partition(": ")[2] for name in systems])
    yield ""
    for name in systems:
        for kind in ("submit", "drain"):
            for figure in figures.variants(name, kind):
                yield f"{name}, {figure}: {figures.shown(name, figure)} runs/s"
        for percentile in ("p50", "p99"):
            for figure in figures.variants(name, f"dispatch, {percentile}"):
                yield f"{name}, {figure}: {figures.shown(name, figure)} ms"


def _backlog(figures: Figures, parameters: dict[str, Any]) -> Iterator[str]:
    names = {
        "shallow": "1,000 wait",
        "deep": f"{parameters['deep']:,} wait",
        "held": f"snapshot held, {parameters['before']:,} drained",
    }
    yield ""
    yield f"{'towline':{LABEL}}" + "".join(f"{title:>{WIDTH + 4}}" for title in names.values())
    for figure, unit in (("drain", "runs/s"), ("dispatch, p50", "ms"), ("dispatch, p99", "ms")):
        shown = [figures.shown(name, figure) for name in names]
        yield f"{f'{figure} [{unit}]':{LABEL}}" + "".join(f"{one:>{WIDTH + 4}}" for one in shown)
    yield "dispatch here: of an urgent run past those that wait, to a slot freed once it is acknowledged"


def _scale(scale: dict[str, Any]) -> Iterator[str]:
    idle, storm = scale["idle_cpu"], scale["storm"]
    yield ""
    yield (
        f"{scale['sessions']:,} agents, each on its own connection, heartbeat each "
        f"{scale['heartbeat_interval_s']:g} s: opened in {scale['opened_s']:.1f} s, "
        f"{scale['rss_per_session_kib']:.1f} KiB each in the queue service"
    )
    yield "idle [cores]: " + ", ".join(f"{name} {used:.3f}" for name, used in idle.items())
    yield (
        f"all connections broken: the last agent was welcome again after {storm['seconds']:.1f} s; lost "
        f"{storm['lost']} (agents not back {storm['agents_not_back']}, attempts {storm['attempts_lost']} and "
        f"results {storm['results_not_committed']} of {storm['held']})"
    )
    used = storm["cpu_s"]
    yield "CPU in the storm [s]: " + ", ".join(f"{name} {seconds:.1f}" for name, seconds in used.items())
    yield f"  so most went to: {max(used, key=lambda name: used[name])}"
    if storm["errors"]:
        yield "  ends of calls: " + ", ".join(f"{code} {count}" for code, count in storm["errors"].items())


def _row(label: str, cells: list[str]) -> str:
    return f"{label:{LABEL}}" + "".join(f"{cell:>{WIDTH}}" for cell in cells)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3f}"
