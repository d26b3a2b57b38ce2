"""`towline job import-wandb`: jobs that W&B's SDK wrote."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from towline.cli import options, output
from towline.cli.connection import connect

if TYPE_CHECKING:
    from collections.abc import Iterable

    from towline.capture.wandb_notes import Note

__all__ = ["import_wandb"]


def import_wandb(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Folder with wandb-job.json and what lies beside it.")
    ],
    command: Annotated[
        list[str] | None,
        typer.Argument(metavar="COMMAND", help="After --; by default the job's own.", show_default=False),
    ] = None,
    code: Annotated[
        Path | None, typer.Option("--code", metavar="DIR", help="Folder with the job's code.")
    ] = None,
    metadata: Annotated[
        Path | None,
        typer.Option(
            "--artifact-metadata",
            metavar="FILE",
            help="Metadata of the job's artifact, as JSON: managed inputs.",
        ),
    ] = None,
    name: Annotated[str, typer.Option("--name", metavar="JOB", help="Name of the job.")] = "",
    python: Annotated[str, typer.Option(metavar="VERSION", help="In place of the recorded one.")] = "",
    requirements: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="In place of the frozen list; requirements, one a line, as for pip."
        ),
    ] = None,
    without: Annotated[
        list[str] | None,
        typer.Option(metavar="PACKAGE", help="Leave out of the frozen list. May be repeated."),
    ] = None,
    aliases: Annotated[
        list[str] | None,
        typer.Option("--alias", help="Alias for the version, besides latest. May be repeated."),
    ] = None,
    json: options.Json = False,
) -> None:
    """Make a job of one that W&B wrote; what is repaired and what cannot be carried over is listed."""
    from towline.capture import images, wandb_import
    from towline.cli import yaml_files
    from towline.cli.submission import author
    from towline.names import short

    wanted = wandb_import.Wanted(
        folder,
        metadata=metadata,
        name=name,
        python=python,
        requirements=requirements,
        without=without or (),
        command=command or (),
    )
    found = wandb_import.read_folder(wanted, yaml_files.load)
    with output.working("importing"), found.prepared(code, images.resolve) as prepared, connect() as client:
        spec = prepared.spec([client.blobs.upload(blob) for blob in prepared.blobs])
        made = client.jobs.create_version(found.name, spec, author=author(), aliases=aliases or ())
    if json:
        output.document(
            output.as_dict(made)
            | {"repaired": _plain(found.notes.repaired), "not_carried_over": _plain(found.notes.left_out)}
        )
        return
    output.text(f"{'imported' if made.created else 'unchanged'} {short(made.job_version.name)}")
    _tell("repaired", found.notes.repaired)
    _tell("not carried over", found.notes.left_out)


def _plain(notes: "Iterable[Note]") -> list[dict[str, str]]:
    return [note._asdict() for note in notes]


def _tell(what: str, notes: "list[Note]") -> None:
    if notes:
        output.text(f"{what}:")
    for note in notes:
        output.text(f"  {note.place}: {note.text}")
