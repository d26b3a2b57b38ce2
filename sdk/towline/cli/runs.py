"""`towline run …`: runs, their logs and their outputs."""

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from towline.cli import completion, options, output
from towline.cli.connection import connect, connected
from towline.cli.exit_codes import ExitCode
from towline.errors import NotFound

if TYPE_CHECKING:
    from towline.v1 import runs_pb2

__all__ = ["app", "follow_to_end", "outcome"]

app = typer.Typer(help="See, follow and stop runs.", no_args_is_help=True, rich_markup_mode=None)


@app.command("list")
def list_runs(
    queue: Annotated[
        str, typer.Option("--queue", "-q", help="Only of this queue.", autocompletion=completion.queues)
    ] = "",
    job: Annotated[
        str, typer.Option(help="Only of this job, or JOB:VERSION.", autocompletion=completion.jobs)
    ] = "",
    state: Annotated[list[str] | None, typer.Option(help="Only in this state. May be repeated.")] = None,
    author: Annotated[str, typer.Option(help="Only by this author.")] = "",
    label: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Only with this label. May be repeated.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="Most runs to list.")] = 50,
    json: options.Json = False,
) -> None:
    """List runs, newest first."""
    from datetime import UTC, datetime
    from itertools import islice

    from rich.text import Text

    from towline.cli import enums, values, words
    from towline.names import short
    from towline.v1 import runs_pb2

    selected = runs_pb2.RunFilter(
        queue=queue,
        job=job,
        states=[enums.parse(runs_pb2.RunState, "RUN_STATE_", word, "--state") for word in state or ()],
        author=author,
        labels=values.pairs(label or [], "--label"),
    )
    with connect() as client, closing(client.runs.list(selected)) as runs:
        found = list(islice(runs, limit))
    if json:
        return output.messages(found)
    now = datetime.now(UTC)
    return output.table(
        ("RUN", "STATE", "JOB", "QUEUE", "AGE", "NAME"),
        (
            (
                short(run.name),
                Text(words.state(run), style=words.state_style(run.state)),
                short(run.job_version),
                short(run.queue),
                words.ago(run.create_time, now),
                Text(run.display_name),
            )
            for run in found
        ),
    )


@app.command()
def show(run: options.RunName, json: options.Json = False) -> None:
    """Show all there is to know about a run."""
    from towline.cli import pages

    with connect() as client:
        found = client.runs.get(run)
    if json:
        output.message(found)
    else:
        output.rendered(pages.run(found))


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
def cancel(run: options.RunName, json: options.Json = False) -> None:
    """Ask for a run to be stopped: SIGTERM, and SIGKILL when its grace is over."""
    from towline.cli import words

    with connect() as client:
        found = client.runs.cancel(run)
    if json:
        output.message(found)
    else:
        output.text(words.state(found))


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
    json: options.Json = False,
) -> None:
    """List or download the files that a run left."""
    from towline.cli import words

    with connect() as client:
        if to is not None:
            with output.working(f"downloading to {to}"):
                version = client.runs.outputs(run, to)
        elif name := client.runs.get(run).outputs:
            version = client.artifacts.get(name)
        else:
            raise NotFound(f"run {run} has no outputs, or has not ended", reason="NO_OUTPUTS")
    if json:
        output.message(version)
    elif to is not None:
        output.text(f"{version.file_count} files, {words.size(version.size_bytes)}, in {to}")
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
