"""`towline run cancel` and `towline run preempt`: runs by name, or all that a selection finds."""

import sys
from collections.abc import Callable, Sequence

import typer

from towline.cli import output, words
from towline.cli.connection import connect, connected
from towline.cli.selection import Selection
from towline.client import ENDED_STATES, AsyncClient, Client
from towline.client.parallel import in_parallel
from towline.errors import TowlineError
from towline.names import short
from towline.v1 import runs_pb2

__all__ = ["cancel", "cancel_selected", "preempt"]

_GOING_ON = [state for state in runs_pb2.RunState.values() if state and state not in ENDED_STATES]


def cancel(names: Sequence[str], *, as_json: bool) -> None:
    """Cancel runs by name; one that cannot be does not keep the others from it.

    Raises:
        TowlineError: The first of the errors, when all were tried.
    """

    def line(run: runs_pb2.Run) -> str:
        return words.state(run) if len(names) == 1 else f"{short(run.name)} {words.state(run)}"

    _each(names, lambda client, name: client.runs.cancel(name), None if as_json else line)


def preempt(names: Sequence[str], *, as_json: bool) -> None:
    """Preempt runs by name and say what becomes of them; one that cannot be does not keep others from it.

    Raises:
        TowlineError: The first of the errors, when all were tried.
    """

    def line(run: runs_pb2.Run) -> str:
        fate = (
            "it is being cancelled, and does not come back"
            if run.cancel_requested
            else "it goes back to its place in the queue: runs of a higher priority, and older ones, go first"
        )
        return f"{short(run.name)} {words.state(run)}; {fate}"

    _each(names, lambda client, name: client.runs.preempt(name), None if as_json else line)


def _each(
    names: Sequence[str],
    ask: Callable[[Client, str], runs_pb2.Run],
    line: Callable[[runs_pb2.Run], str] | None,
) -> None:
    """Ask for each run and tell it: as `line` writes it; None: as JSON, one object or several in an array."""
    found: list[runs_pb2.Run] = []
    errors: list[TowlineError] = []
    with connect() as client:
        for name in names:
            try:
                found.append(ask(client, name))
            except TowlineError as error:
                errors.append(error)
                continue
            if line:
                output.text(line(found[-1]))
    if line is None and len(names) > 1:
        output.messages(found)
    elif line is None and found:
        output.message(found[0])
    if errors:
        raise errors[0]


def cancel_selected(selection: Selection, *, yes: bool, as_json: bool) -> None:
    """Cancel all runs of a selection that have not ended; a person at a terminal is asked before.

    Raises:
        NotFound: Its queue or job does not exist.
        typer.Abort: The person has said no.
    """
    with connect() as client:
        found = filter(selection.has, client.runs.list(selection.filter(_GOING_ON)))
        runs = [run.name for run in found if _goes_on(run)]
        if not runs:
            selection.check_names(client)
    if runs and not yes and sys.stdin.isatty():
        typer.confirm(f"cancel {_counted(runs)}?", abort=True, err=True)
    asked: list[runs_pb2.Run] = []

    async def work(client: AsyncClient) -> None:
        async def one(name: str) -> None:
            asked.append(await client.runs.cancel(name))

        await in_parallel(runs, one)

    try:
        connected(work)
    finally:  # what was cancelled before an error is told, too
        if as_json:
            output.messages(asked)
        else:
            output.text(f"asked {_counted(asked)} to stop")


def _goes_on(run: runs_pb2.Run) -> bool:
    return run.state not in ENDED_STATES


def _counted(runs: Sequence[object]) -> str:
    return f"{len(runs)} run{'' if len(runs) == 1 else 's'}"
