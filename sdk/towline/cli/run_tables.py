"""Tables of runs: what each is, and, where asked for, what it told of its results."""

import json
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.text import Text

from towline.cli import output, words
from towline.errors import InvalidArgument
from towline.names import short
from towline.v1 import runs_pb2

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["documents", "result_names", "table"]


def result_names(text: str | None) -> list[str]:
    """Read --summary NAME,…; dots reach into objects.

    Raises:
        InvalidArgument: A name is empty.
    """
    found = [name.strip() for name in text.split(",")] if text is not None else []
    if not all(found):
        raise InvalidArgument.field("--summary", "has an empty name; write names with commas between them")
    return list(dict.fromkeys(found))


def table(
    runs: Sequence[runs_pb2.Run], results: Sequence[str], now: datetime
) -> tuple[Sequence[str], Iterator[Sequence["RenderableType"]]]:
    """Make headers and rows, one for each run, with a column for each of the results."""
    headers = ("RUN", "STATE", "JOB", "QUEUE", "AGE", "NAME", *map(escape, results))
    return headers, (_row(run, results, now) for run in runs)


def documents(runs: Sequence[runs_pb2.Run], results: Sequence[str]) -> list[dict[str, Any]]:
    """Make runs as JSON; with results to show each has them as an object `summary`, null where unset."""
    found = [output.as_dict(run) for run in runs]
    if results:
        for document, run in zip(found, runs, strict=True):
            document["summary"] = _chosen(run, results)
    return found


def _row(run: runs_pb2.Run, results: Sequence[str], now: datetime) -> Sequence["RenderableType"]:
    return (
        short(run.name),
        Text(words.state(run), style=words.state_style(run)),
        short(run.job_version),
        short(run.queue),
        words.ago(run.create_time, now),
        Text(run.display_name),
        *(Text(_shown(value)) for value in _chosen(run, results).values()),
    )


def _chosen(run: runs_pb2.Run, results: Sequence[str]) -> dict[str, Any]:
    summary = json.loads(run.summary_json or "{}")
    return {name: _at(summary, name) for name in results}


def _at(summary: Any, name: str) -> Any:
    """Find a result by its name; one that has dots in it comes before one inside an object."""
    if not isinstance(summary, dict):
        return None
    if name in summary:
        return summary[name]
    for end in (index for index, letter in enumerate(name) if letter == "."):
        if name[:end] in summary and (found := _at(summary[name[:end]], name[end + 1 :])) is not None:
            return found
    return None


def _shown(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.6g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
