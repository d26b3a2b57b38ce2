"""The results as a plot: usage: python -m bench.queue.plot RESULTS.json PLOT.svg"""

import json
import sys
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl

mpl.use("svg")
mpl.rcParams["svg.hashsalt"] = "towline"  # the same figures, the same file

from matplotlib import pyplot  # noqa: E402 - after the choice of its back end
from matplotlib.axes import Axes  # noqa: E402 - likewise

from bench.queue.figures import Figures  # noqa: E402 - likewise

COLOURS: Final = {"towline": "#1b6ca8", "other": "#8fb8d6", "pgqueuer": "#c98b2b", "procrastinate": "#9a9a9a"}
PANELS: Final = (
    ("submit", "submitted [runs/s]"),
    ("drain", "drained [runs/s]"),
    ("dispatch, p50", "dispatch, median [ms]"),
    ("dispatch under half load, p50", "dispatch under half load, median [ms]"),
)


def main(source: str, target: str) -> None:
    """Draw one panel for each kind of figure that was taken."""
    results = json.loads(Path(source).read_text())
    figures = Figures.read(results.get("comparison", {}))
    panels = [
        (kind, title)
        for kind, title in PANELS
        if any(_figure(figures, name, kind) for name in figures.values)
    ]
    count = len(panels) + ("backlog" in results)
    if not count:
        return
    drawing, axes = pyplot.subplots(1, count, figsize=(3.2 * count, 3.2), squeeze=False)
    for place, (kind, title) in zip(axes[0], panels, strict=False):
        bars = {name: figure for name in figures.values if (figure := _figure(figures, name, kind))}
        _bars(place, figures, bars, title)
    if "backlog" in results:
        _backlog(axes[0][-1], Figures.read(results["backlog"]), results["parameters"])
    machine = results["machine"]
    ground = f"{machine['cores']} cores, PostgreSQL {machine['postgresql']}, fsync {machine['fsync']}"
    drawing.suptitle(f"{ground}; medians and ranges", fontsize=9)
    drawing.tight_layout()
    drawing.savefig(target, metadata={"Date": None})


def _figure(figures: Figures, name: str, kind: str) -> str:
    """Return which figure of a system stands for a kind; empty: it has none."""
    if kind in figures.values[name]:
        return kind
    return figures.best(name, kind) if figures.variants(name, kind) else ""


def _bars(place: Axes, figures: Figures, bars: dict[str, str], title: str) -> None:
    for name, figure in bars.items():
        values, middle = figures.values[name][figure], figures.median(name, figure)
        reach = [[middle - min(values)], [max(values) - middle]]
        place.bar(name, middle, yerr=reach, capsize=3, color=COLOURS[name])
        told = f"{middle:,.0f}" if middle >= 100 else f"{middle:.3g}"
        place.annotate(told, (name, middle), ha="center", va="bottom", fontsize=8)
    _dress(place, title)


def _backlog(place: Axes, figures: Figures, parameters: dict[str, Any]) -> None:
    names = {"shallow": "1,000\nwait", "deep": f"{parameters['deep']:,}\nwait", "held": "snapshot\nheld"}
    for name, label in names.items():
        values, middle = figures.values[name]["drain"], figures.median(name, "drain")
        reach = [[middle - min(values)], [max(values) - middle]]
        place.bar(label, middle, yerr=reach, capsize=3, color=COLOURS["towline"])
    _dress(place, "Towline, drained [runs/s]")


def _dress(place: Axes, title: str) -> None:
    place.set_title(title, fontsize=9)
    place.tick_params(labelsize=8)
    place.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    main(*sys.argv[1:])
