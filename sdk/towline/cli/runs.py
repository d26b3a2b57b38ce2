"""`towline run …`: runs, their logs and their outputs."""

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from towline.cli import completion, options, output
from towline.cli.connection import connect, connected
from towline.cli.destinations import writing
from towline.cli.exit_codes import ExitCode
from towline.errors import InvalidArgument

if TYPE_CHECKING:
    from towline.v1 import runs_pb2

__all__ = ["app", "follow_to_end", "outcome"]

app = typer.Typer(help="See, follow and stop runs.", no_args_is_help=True, rich_markup_mode=None)


@app.command("list")
def list_runs(
    queue: options.OfQueue = None,
    job: options.OfJob = None,
    state: options.InStates = None,
    author: options.ByAuthor = None,
    label: options.WithLabels = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="Most runs to list.")] = 50,
    summary: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,…",
            help="Show these results, of `run.summary`, too; dots in NAME reach into objects.",
        ),
    ] = None,
    json: options.Json = False,
) -> None:
    """List runs, newest first."""
    from datetime import UTC, datetime
    from itertools import islice

    from towline.cli import run_tables
    from towline.cli.selection import Selection

    results = run_tables.result_names(summary)
    options.most(limit, "--limit", "say which with --queue, --job, --state, --author or --label")
    selection = Selection(queue, job, state or (), author, label or ())
    with connect() as client:
        with closing(client.runs.list(selection.filter())) as runs:
            found = list(islice(filter(selection.has, runs), limit))
        if not found:
            selection.check_names(client)
    if json:
        return output.document(run_tables.documents(found, results))
    return output.table(*run_tables.table(found, results, datetime.now(UTC)))


@app.command()
def show(run: options.RunName, json: options.Json = False) -> None:
    """Show all there is to know about a run."""
    from towline.cli import pages

    with connect() as client:
        found = client.runs.get(run)
        holder = client.fleet.get(found.attempts[-1].agent) if found.unreachable and not json else None
    if json:
        output.message(found)
    else:
        output.rendered(pages.run(found, holder))


@app.command()
def logs(
    run: options.RunName,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Wait for more until the run has ended.")
    ] = False,
    build: Annotated[bool, typer.Option("--build", help="What the image's build printed.")] = False,
    epoch: Annotated[int, typer.Option(min=0, help="Of this attempt; 0: the newest.")] = 0,
    tail: Annotated[int | None, typer.Option(min=1, metavar="BYTES", help="Only the last bytes.")] = None,
    json: options.Json = False,
) -> None:
    """Write what a run printed, byte by byte."""
    from towline.v1 import logs_pb2

    stream = logs_pb2.LOG_STREAM_BUILD if build else logs_pb2.LOG_STREAM_OUTPUT
    offset = -tail if tail else 0
    with connect() as client:
        log = client.logs.tail(run, epoch=epoch, stream=stream, offset=offset, follow=follow)
        with closing(log) as pieces:
            for piece in pieces:
                if json:
                    output.message(piece)
                else:
                    output.write(piece.data)


@app.command()
def wait(run: options.RunName, json: options.Json = False) -> int:
    """Wait until a run has ended; the exit code says how."""
    from towline.cli import following

    return outcome(connected(lambda client: following.wait(client, run, following.display(as_json=json))))


@app.command()
def cancel(
    runs: Annotated[
        list[str] | None,
        typer.Argument(metavar="RUN", help="Ids of runs.", autocompletion=completion.runs),
    ] = None,
    queue: options.OfQueue = None,
    job: options.OfJob = None,
    state: options.InStates = None,
    author: options.ByAuthor = None,
    label: options.WithLabels = None,
    everything: Annotated[bool, typer.Option("--all", help="All runs that have not ended.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    json: options.Json = False,
) -> None:
    """Ask for runs to be stopped: the queue's stop signal, and SIGKILL when their grace is over.

    Names runs, or with options all that match and have not ended; on a terminal it asks before those.
    """
    from towline.cli import stopping
    from towline.cli.selection import Selection

    selection = Selection(queue, job, state or (), author, label or ())
    by_options = everything or not selection.empty
    if bool(runs) == by_options:
        raise InvalidArgument.field(
            "RUN", "name runs, or say which with --queue, --job, … or --all: not both"
        )
    if by_options:
        stopping.cancel_selected(selection, yes=yes, as_json=json)
    else:
        stopping.cancel(runs or (), as_json=json)


@app.command()
def preempt(
    runs: Annotated[
        list[str],
        typer.Argument(metavar="RUN", help="Ids of runs.", autocompletion=completion.runs),
    ],
    json: options.Json = False,
) -> None:
    """Have runs stopped so that they can save their work, and wait again at their old places.

    Runs of a higher priority go first then, and older ones of the same; later ones do not. None of their
    retries is spent. Only a run that an agent holds can be preempted.
    """
    from towline.cli import stopping

    stopping.preempt(runs, as_json=json)


@app.command()
def retry(run: options.RunName, follow: options.Follow = False, json: options.Json = False) -> int:
    """Queue a run that has ended once more, as a new run."""
    from towline.names import short

    with connect() as client:
        again = client.runs.retry(run)
    if follow:
        return follow_to_end(again.name, as_json=json)
    if json:
        output.message(again)
    else:
        output.text(short(again.name))
    return ExitCode.OK


@app.command()
def outputs(
    run: options.RunName,
    to: Annotated[
        Path | None,
        typer.Option(file_okay=False, help="Folder to write them to; without it they are listed."),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace files that are there with other content.")
    ] = False,
    epoch: Annotated[
        int, typer.Option(min=0, help="Of this attempt, once it has ended; 0: of the whole run.")
    ] = 0,
    json: options.Json = False,
) -> None:
    """List or download the files that a run, or one of its attempts, left."""
    from towline.cli import words
    from towline.client.runs import outputs_of

    with connect() as client:
        if to is not None:
            with output.working(f"downloading to {to}"), writing(to):
                version = client.runs.outputs(run, to, replace=force, epoch=epoch)
        else:
            version = client.artifacts.get(outputs_of(client.runs.get(run), epoch))
    if json:
        output.message(version)
    elif to is not None:
        output.text(f"{words.files(version.file_count, version.size_bytes)}, in {to}")
    else:
        output.table(("SIZE", "FILE"), ((words.size(file.size_bytes), file.path) for file in version.files))


def follow_to_end(name: str, *, as_json: bool) -> int:
    """Show states and log of a run until it has ended, and give the exit code for how it did."""
    import sys
    from datetime import datetime

    from towline.cli import following

    began = datetime.now().astimezone()
    try:
        screen = following.display(as_json=as_json)
        return outcome(connected(lambda client: following.follow(client, name, screen)))
    except KeyboardInterrupt:
        sys.stderr.write(following.detached(name, began) + "\n")
        return ExitCode.INTERRUPTED


def outcome(run: "runs_pb2.Run") -> int:
    """Give the exit code for how a run ended."""
    from towline.v1 import runs_pb2

    succeeded = run.state == runs_pb2.RUN_STATE_SUCCEEDED
    return ExitCode.OK if succeeded else ExitCode.RUN_NOT_SUCCEEDED
