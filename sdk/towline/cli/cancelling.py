"""`towline run cancel`: runs by name, or all that a selection finds."""

import sys
from collections.abc import Sequence

import typer

from towline.cli import output, words
from towline.cli.connection import connect, connected
from towline.cli.selection import Selection
from towline.client import ENDED_STATES, AsyncClient
from towline.client.parallel import in_parallel
from towline.errors import TowlineError
from towline.names import short
from towline.v1 import runs_pb2

__all__ = ["named", "selected"]

_GOING_ON = [state for state in runs_pb2.RunState.values() if state and state not in ENDED_STATES]


def named(names: Sequence[str], *, as_json: bool) -> None:
    """Cancel runs by name; one that cannot be does not keep the others from it.

    Raises:
        TowlineError: The first of the errors, when all were tried.
    """
    found: list[runs_pb2.Run] = []
    errors: list[TowlineError] = []
    with connect() as client:
        for name in names:
            try:
                found.append(client.runs.cancel(name))
            except TowlineError as error:
                errors.append(error)
                continue
            if not as_json:
                state = words.state(found[-1])
                output.text(state if len(names) == 1 else f"{short(found[-1].name)} {state}")
    if as_json and len(names) > 1:
        output.messages(found)
    elif as_json and found:
        output.message(found[0])
    if errors:
        raise errors[0]


def selected(selection: Selection, *, yes: bool, as_json: bool) -> None:
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

    async def cancel(client: AsyncClient) -> None:
        async def one(name: str) -> None:
            asked.append(await client.runs.cancel(name))

        await in_parallel(runs, one)

    try:
        connected(cancel)
    finally:  # what was cancelled before an error is told, too
        if as_json:
            output.messages(asked)
        else:
            output.text(f"asked {_counted(asked)} to stop")


def _goes_on(run: runs_pb2.Run) -> bool:
    return run.state not in ENDED_STATES


def _counted(runs: Sequence[object]) -> str:
    return f"{len(runs)} run{'' if len(runs) == 1 else 's'}"
