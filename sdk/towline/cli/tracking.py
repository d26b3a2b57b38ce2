"""`towline track` and `towline sync`: recording without a line of code, and later."""

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from towline.cli import exit_codes, options, output
from towline.cli.connection import connected
from towline.cli.exit_codes import ExitCode
from towline.errors import FailedPrecondition, TowlineError, Unavailable

__all__ = ["sync", "track"]


def track(
    command: Annotated[
        list[str], typer.Argument(metavar="COMMAND", help="After --, such as: -- python train.py")
    ],
    name: Annotated[
        str, typer.Option("--name", metavar="JOB", help="Name of the job; by default made from the script's.")
    ] = "",
    config: Annotated[
        list[str] | None,
        typer.Option(
            "--config-file",
            "--config",
            metavar="[NAME=]FILE",
            help="JSON or YAML that the program reads: its content becomes a parameter. May be repeated.",
        ),
    ] = None,
    dockerfile: Annotated[
        str,
        typer.Option(
            metavar="FILE",
            help="Dockerfile of the project to build the image with; by default Dockerfile.towline, if it is "
            "there.",
        ),
    ] = "",
    build_args: options.BuildArgs = None,
    system_packages: options.SystemPackages = None,
) -> int:
    """Run a program as it is, and make a job of it when it ends.

    The values among its arguments (--lr 0.1, --lr=0.1, model.width=8) are the job's parameters. The program's
    output, signals and exit code are its own.
    """
    from towline.cli import track as tracked

    return tracked.run(
        command, tracked.Options(name, config or (), dockerfile, build_args or (), system_packages or ())
    )


def sync(
    only_list: Annotated[bool, typer.Option("--list", help="List what waits, and send nothing.")] = False,
    json: options.Json = False,
) -> int:
    """Send what was recorded while the registry could not be reached, oldest first.

    A record is removed once it is sent. One that the registry does not take stays, and the others go on; the
    exit code is that of the first problem.
    """
    from towline.capture import records

    records.sweep()
    folders = records.kept()
    if only_list:
        _list(folders, as_json=json)
        return ExitCode.OK
    first: TowlineError | None = None
    sent: list[str] = []
    for folder in folders:
        try:
            sent.append(_send(folder, as_json=json))
        except (BlockingIOError, FileNotFoundError):  # another `towline sync`, or its recorder
            continue
        except TowlineError as error:
            first = first or error
            sys.stderr.write(f"{folder}: {error.message}\n")
            if isinstance(error, Unavailable):  # so it would be for the rest
                break
    if json:
        output.document({"sent": sent})
    elif not folders:
        output.text("nothing waits")
    return exit_codes.of(first) if first else ExitCode.OK


def _send(folder: Path, *, as_json: bool) -> str:
    """Send one record, and give the name of its job version.

    Raises:
        BlockingIOError: Somebody else works on it.
        FileNotFoundError: Somebody else has sent it meanwhile.
        TowlineError: It cannot be read or sent.
    """
    from towline.capture import records
    from towline.capture.sending import send
    from towline.names import short
    from towline.runtime import spool

    with records.Work(folder):
        (folder / spool.RECORD).stat()
        record = records.Record.read(folder)
        try:
            sent = connected(lambda client: send(client, folder, record))
        except OSError as error:
            raise FailedPrecondition(
                f"a file of the record cannot be read: {error}; remove the folder if you do not need it",
                reason="RECORD_UNREADABLE",
            ) from error
        if sent.problems:
            raise FailedPrecondition("; ".join(sent.problems), reason="RECORD_SENT_IN_PART")
        records.remove(folder)
    for note in sent.notes:
        sys.stderr.write(f"{note}\n")
    version = sent.response.job_version.name
    if not as_json:
        logged = f"; logged {', '.join(map(short, sent.artifacts))}" if sent.artifacts else ""
        output.text(f"{'recorded' if sent.response.created else 'unchanged'} {short(version)}{logged}")
    return version


def _list(folders: list[Path], *, as_json: bool) -> None:
    from towline.capture.records import Record

    rows = []
    for folder in folders:
        try:
            record = Record.read(folder)
        except FailedPrecondition as error:
            rows.append({"folder": str(folder), "problem": error.message})
            continue
        moment = datetime.fromtimestamp(record.recorded_at, UTC)
        rows.append(
            {
                "folder": str(folder),
                "job": record.job,
                "recorded_at": moment.isoformat(timespec="seconds"),
                "command": " ".join(record.spec.get("entrypoint", [])),
            }
        )
    if as_json:
        output.document(rows)
    else:
        output.table(
            ("RECORDED", "JOB", "COMMAND", "FOLDER"),
            (
                (
                    row.get("recorded_at", "?"),
                    row.get("job", "?"),
                    row.get("command", "cannot be read"),
                    row["folder"],
                )
                for row in rows
            ),
        )
