"""`towline artifact …`: datasets, models and outputs, from and to this machine."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from towline.cli import options, output
from towline.cli.connection import connect
from towline.cli.destinations import writing

if TYPE_CHECKING:
    from towline.client.transfers import Moved, TreeProgress

__all__ = ["app"]

app = typer.Typer(help="Store, get and see artifacts.", no_args_is_help=True, rich_markup_mode=None)


@app.command()
def put(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="Folder or file.", exists=True)],
    name: Annotated[str, typer.Option("--name", metavar="ARTIFACT", help="Name of the artifact.")],
    kind: Annotated[
        str, typer.Option("--type", metavar="TYPE", help="What it is, such as dataset or model.")
    ],
    aliases: Annotated[
        list[str] | None,
        typer.Option("--alias", help="Alias for the version, besides latest. May be repeated."),
    ] = None,
    metadata: Annotated[
        list[str] | None,
        typer.Option("--metadata", metavar="KEY=VALUE", help="Said of it; YAML value. May be repeated."),
    ] = None,
    json: options.Json = False,
) -> None:
    """Store a folder or a file as a version of an artifact; what the registry has is not sent again.

    Interrupted, the same command goes on where it stopped.
    """
    from towline.cli import values, words, yaml_files
    from towline.client.transfers import About
    from towline.names import short

    told = {
        key: yaml_files.load(text, f"--metadata {key}")
        for key, text in values.pairs(metadata or (), "--metadata").items()
    }
    with connect() as client, _resumable("put"), _progress() as progress:
        made = client.artifacts.upload(
            path, name, kind, about=About(aliases=aliases or (), metadata=told), progress=progress
        )
    if json:
        return output.message(made)
    version = made.artifact_version
    return output.text(
        f"{'stored' if made.created else 'unchanged'} {short(version.name)} "
        f"({words.files(version.file_count, version.size_bytes)})"
    )


@app.command()
def get(
    artifact: options.ArtifactName,
    to: Annotated[Path, typer.Option("--to", metavar="FOLDER", file_okay=False, help="Where to write it.")],
    force: Annotated[
        bool, typer.Option("--force", help="Replace files that are there with other content.")
    ] = False,
    json: options.Json = False,
) -> None:
    """Write the files of an artifact below a folder; those that are there already are kept.

    Interrupted, the same command goes on where it stopped.
    """
    from towline.cli import words
    from towline.names import short

    with connect() as client, _resumable("get"), writing(to), _progress() as progress:
        version = client.artifacts.download(artifact, to, replace=force, progress=progress)
    if json:
        return output.message(version)
    return output.text(
        f"{short(version.name)}: {words.files(version.file_count, version.size_bytes)}, in {to}"
    )


@contextmanager
def _resumable(command: str) -> Iterator[None]:
    """Say after Ctrl-C how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        sys.stderr.write(f"stopped; run the same `towline artifact {command}` again to go on from here\n")
        raise


@contextmanager
def _progress() -> "Iterator[TreeProgress | None]":
    """Show on a terminal how far a transfer is."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[files]}"),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
    )
    with Progress(*columns, console=output.errors_console(), transient=True) as bars:
        bar = bars.add_task("looking", total=None, files="")

        def show(moved: "Moved") -> None:
            bars.update(
                bar,
                description=moved.doing,
                total=moved.all_bytes,
                completed=moved.size_bytes,
                files=f"{moved.files:,} of {moved.all_files:,} files",
            )

        yield show
