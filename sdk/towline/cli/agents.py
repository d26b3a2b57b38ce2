"""`towline agent …`: the nodes that run things."""

import os
import sys
from importlib.util import find_spec
from typing import Annotated

import typer

from towline.cli import options, output
from towline.cli.connection import connect
from towline.errors import FailedPrecondition

__all__ = ["app"]

app = typer.Typer(help="Start and see agents.", no_args_is_help=True, rich_markup_mode=None)

_MODULES = ("towline_agent", "aiodocker", "grpc_health", "pydantic_settings", "pynvml")


@app.command()
def start(
    queue: Annotated[
        list[str] | None,
        typer.Option("--queue", "-q", help="Queue to serve; the first one is preferred. May be repeated."),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", parser=options.given, help="Name, stable over restarts; by default the host's."
        ),
    ] = None,
    slots: Annotated[int | None, typer.Option(min=1, help="Runs at once; by default one per GPU.")] = None,
    gpus: Annotated[str, typer.Option(help='"auto", "none", or UUIDs with commas between them.')] = "",
    label: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Label of the node. May be repeated.")
    ] = None,
    data_dir: options.AgentFolder = None,
) -> None:
    """Run an agent on this node, in the foreground; `TOWLINE_AGENT_…` variables set the rest."""
    from towline.runtime.endpoints import Endpoints

    missing = [module for module in _MODULES if find_spec(module) is None]
    if missing:
        raise FailedPrecondition(
            f"an agent needs packages that are not installed ({', '.join(missing)}); "
            "pip install 'towline[agent]'",
            reason="EXTRA_MISSING",
        )
    endpoints = Endpoints.discover()
    settings = {
        "QUEUE_ADDRESS": endpoints.queue,
        "REGISTRY_ADDRESS": endpoints.registry,
        "QUEUES": ",".join(queue or []),
        "AGENT": name or "",
        "SLOTS": str(slots or ""),
        "GPUS": gpus,
        "LABELS": ",".join(label or []),
        "DATA_DIR": str(data_dir or ""),
    }
    given = {f"TOWLINE_AGENT_{setting}": value for setting, value in settings.items() if value}
    # The agent takes our place, so that signals and its exit code are its own.
    os.execve(  # noqa: S606 - no shell wanted
        sys.executable, [sys.executable, "-P", "-m", "towline_agent"], os.environ | given
    )


@app.command("list")
def list_agents(json: options.Json = False) -> None:
    """List agents by name."""
    from datetime import UTC, datetime

    from rich.text import Text

    from towline.cli import words
    from towline.names import short
    from towline.v1 import fleet_pb2

    with connect() as client:
        found = list(client.fleet.list())
    if json:
        return output.messages(found)
    now = datetime.now(UTC)
    return output.table(
        ("AGENT", "STATE", "RUNS", "SLOTS", "GPUS", "QUEUES", "LAST SEEN"),
        (
            (
                short(agent.name),
                Text(words.lower(fleet_pb2.AgentState.Name(agent.state), "AGENT_STATE_")),
                str(len(agent.runs)),
                str(agent.capacity.slots),
                str(len(agent.gpus)),
                ", ".join(map(short, agent.queues)),
                f"{words.ago(agent.last_seen_time, now)} ago",
            )
            for agent in found
        ),
    )


@app.command()
def show(agent: options.AgentName, json: options.Json = False) -> None:
    """Show all there is to know about an agent."""
    from towline.cli import pages

    with connect() as client:
        found = client.fleet.get(agent)
    if json:
        output.message(found)
    else:
        output.rendered(pages.agent(found))


@app.command()
def drain(
    agent: options.AgentName,
    deadline: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            parser=options.given,
            help="Preempt the runs that are left after this time, such as 10m; by default none is.",
        ),
    ] = None,
    json: options.Json = False,
) -> None:
    """Ask an agent to take no more runs, and to leave when its last one has ended."""
    from towline import durations
    from towline.cli import pages

    span = None if deadline is None else durations.parse(deadline, "--deadline")
    with connect() as client:
        found = client.fleet.drain(agent, span)
    if json:
        output.message(found)
    else:
        output.text(pages.draining(found))
