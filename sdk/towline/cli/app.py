"""The commands, and how a call of them ends."""

from collections.abc import Sequence
from itertools import takewhile
from typing import Annotated

import typer

from towline import __version__
from towline.cli import (
    agents,
    artifact_records,
    artifacts,
    exit_codes,
    failures,
    job_builds,
    job_diffs,
    job_imports,
    job_versions,
    jobs,
    output,
    queues,
    runs,
    stack,
    submit,
    tracking,
)
from towline.errors import Internal, TowlineError

__all__ = ["app", "run"]

app = typer.Typer(
    name="towline",
    help="Record an ML run once, run it on any GPU node.",
    epilog="Exit codes:\n\n\b\n" + exit_codes.table(),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    # Help as plain text: rich takes longer to import than the rest of the help to make.
    rich_markup_mode=None,
)
app.command()(stack.up)
app.command()(stack.down)
app.command()(stack.status)
jobs.app.command()(job_builds.build)
jobs.app.command()(job_diffs.diff)
jobs.app.command("import-wandb")(job_imports.import_wandb)
jobs.app.command()(job_versions.alias)
jobs.app.command()(job_versions.delete)
jobs.app.command()(job_versions.retention)
app.add_typer(jobs.app, name="job")
app.add_typer(queues.app, name="queue")
app.command()(submit.submit)
app.command()(submit.launch)
app.command()(tracking.track)
app.command()(tracking.sync)
app.add_typer(runs.app, name="run")
artifacts.app.command("list")(artifact_records.list_artifacts)
artifacts.app.command()(artifact_records.show)
artifacts.app.command()(artifact_records.lineage)
artifacts.app.command()(artifact_records.alias)
artifacts.app.command()(artifact_records.delete)
artifacts.app.command()(artifact_records.retention)
app.add_typer(artifacts.app, name="artifact")
app.add_typer(agents.app, name="agent")


def _version(wanted: bool) -> None:
    if wanted:
        output.text(f"towline {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    _: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Record an ML run once, run it on any GPU node."""


def run(arguments: Sequence[str]) -> int:
    """Run one command line and give its exit code; errors are written to standard error."""
    as_json = "--json" in takewhile(lambda word: word != "--", arguments)
    try:
        return int(app(args=list(arguments), prog_name="towline", standalone_mode=False) or 0)
    except TowlineError as error:
        return failures.show(error, as_json=as_json)
    except typer.TyperException as error:
        return _usage(error, as_json=as_json)
    except output.ReaderGone:
        return exit_codes.ExitCode.OK
    except OSError as error:
        output.give_up()
        problem = f"{error.filename or 'standard output'}: {error.strerror or error}"
        return failures.show(Internal(problem, reason="IO_FAILED"), as_json=as_json)
    except (KeyboardInterrupt, typer.Abort):
        return exit_codes.ExitCode.INTERRUPTED


def _usage(error: typer.TyperException, *, as_json: bool) -> int:
    context: typer.Context | None = getattr(error, "ctx", None)
    message = error.format_message()
    if context and message == context.get_help():  # no command was given
        output.text(message)
        return exit_codes.ExitCode.BAD_INPUT
    hint = f"try `{context.command_path} --help`" if context else ""
    return failures.show_usage(message, hint, as_json=as_json)
