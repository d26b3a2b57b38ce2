"""`towline job diff`: what changed between two versions."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from towline.cli import completion, options, output
from towline.cli.connection import connect
from towline.cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.text import Text

    from towline.client import Client
    from towline.comparison.specs import Change, Kind
    from towline.comparison.trees import FileChange
    from towline.v1 import jobs_pb2

__all__ = ["diff"]

_Version = Annotated[
    str, typer.Argument(metavar="JOB[:VERSION]", help="The one before.", autocompletion=completion.jobs)
]


def diff(
    before: _Version,
    after: Annotated[
        str,
        typer.Argument(
            metavar="JOB[:VERSION]",
            help="The one after; by default the latest of the same job.",
            autocompletion=completion.jobs,
            show_default=False,
        ),
    ] = "",
    json: options.Json = False,
) -> int:
    """Show what changed from one version of a job to another; the exit code is 0 if nothing did, else 1."""
    from towline.comparison.specs import compare
    from towline.names import short

    with connect() as client:
        old = client.jobs.get(before)
        new = client.jobs.get(after or old.name.partition("/versions/")[0])
        changes = compare(old.spec, new.spec)
        with output.working("comparing the source"):
            files = _files(client, old.spec, new.spec)
    if json:
        output.document(
            {
                "before": old.name,
                "after": new.name,
                "equal": not changes,
                "changes": [change._asdict() | {"kind": change.kind.value} for change in changes],
                "files": [_file_as_dict(change) for change in files],
            }
        )
    elif changes:
        output.text(f"{short(old.name)} → {short(new.name)}")
        output.rendered(*_page(changes, files))
    else:
        output.text(f"{short(old.name)} and {short(new.name)} are equal")
    return ExitCode.DIFFERENT if changes else ExitCode.OK


def _files(client: "Client", old: "jobs_pb2.JobSpec", new: "jobs_pb2.JobSpec") -> "list[FileChange]":
    """Compare the snapshots, where both are some and they differ."""
    from towline.comparison.trees import compare_trees

    if not (old.HasField("code") and new.HasField("code")) or old.code.digest == new.code.digest:
        return []
    with tempfile.TemporaryDirectory(prefix="towline-diff-") as folder:
        archives = [Path(folder, "before.tar"), Path(folder, "after.tar")]
        for spec, archive in zip((old, new), archives, strict=True):
            client.blobs.download(spec.code.digest, archive)
        return compare_trees(*archives)


def _file_as_dict(change: "FileChange") -> dict[str, Any]:
    def facts(file: Any) -> dict[str, Any] | None:
        return vars(file) if file is not None else None

    return {
        "path": change.path,
        "kind": change.kind.value,
        "before": facts(change.before),
        "after": facts(change.after),
        "diff": change.diff,
    }


def _page(changes: "Sequence[Change]", files: "Sequence[FileChange]") -> "list[Text]":
    from rich.text import Text

    from towline.comparison.specs import sections

    lines: list[Text] = []
    for section, found in sections(changes).items():
        lines.append(Text(section, style="bold"))
        if section == "source" and files:
            for change in files:
                lines += _file_lines(change)
        else:
            lines += [_line(change.kind, _said(change)) for change in found]
    return lines


def _line(kind: "Kind", text: str) -> "Text":
    from rich.text import Text

    from towline.comparison.specs import Kind

    sign, style = {Kind.ADDED: ("+", "green"), Kind.REMOVED: ("-", "red"), Kind.CHANGED: ("~", "yellow")}[
        kind
    ]
    return Text(f"  {sign} {text}", style=style)


def _said(change: "Change") -> str:
    from towline.comparison.specs import Kind

    if change.kind is Kind.ADDED:
        return f"{change.path} {_value(change.after)}"
    if change.kind is Kind.REMOVED:
        return f"{change.path} {_value(change.before)}"
    return f"{change.path} {_value(change.before)} → {_value(change.after)}"


def _value(value: Any) -> str:
    import json

    return value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)


def _file_lines(change: "FileChange") -> "list[Text]":
    from rich.text import Text

    styles = {"+": "green", "-": "red", "@": "cyan"}
    diff = [Text(f"    {line}", style=styles.get(line[:1], "")) for line in change.diff.splitlines()]
    return [_line(change.kind, f"{change.path}{_how(change)}"), *diff]


def _how(change: "FileChange") -> str:
    """Say what no diff shows."""
    from towline.cli import words

    if change.diff:
        return ""
    old, new = change.before, change.after
    if old is None or new is None:
        file = new or old
        return f" ({words.size(file.size_bytes)})" if file else ""
    if old.digest == new.digest:
        return " (is executable now)" if new.executable else " (is no longer executable)"
    return f" ({words.size(old.size_bytes)} → {words.size(new.size_bytes)})"
