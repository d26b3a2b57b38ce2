"""Options and arguments that several commands share."""

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from towline.cli import completion

__all__ = [
    "AgentName",
    "DataDir",
    "Follow",
    "JobName",
    "Json",
    "Priority",
    "QueueName",
    "QueueOption",
    "RunName",
    "Settings",
    "Variables",
]

Json: TypeAlias = Annotated[bool, typer.Option("--json", help="Write JSON, errors too.")]
DataDir: TypeAlias = Annotated[
    Path | None,
    typer.Option(help="Folder with all state.", show_default="$TOWLINE_DATA_DIR, else ~/.towline"),
]
RunName: TypeAlias = Annotated[
    str, typer.Argument(metavar="RUN", help="Id of the run.", autocompletion=completion.runs)
]
QueueName: TypeAlias = Annotated[
    str, typer.Argument(metavar="QUEUE", help="Name of the queue.", autocompletion=completion.queues)
]
JobName: TypeAlias = Annotated[
    str,
    typer.Argument(
        metavar="JOB[:ALIAS]", help="Job, by default its latest version.", autocompletion=completion.jobs
    ),
]
AgentName: TypeAlias = Annotated[
    str, typer.Argument(metavar="AGENT", help="Name of the agent.", autocompletion=completion.agents)
]
QueueOption: TypeAlias = Annotated[
    str, typer.Option("--queue", "-q", metavar="QUEUE", help="Queue.", autocompletion=completion.queues)
]
Follow: TypeAlias = Annotated[
    bool, typer.Option("--follow", "-f", help="Show states and log until the run has ended.")
]
Settings: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Parameter; YAML value, dots in KEY nest. May be repeated."
    ),
]
Variables: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--var", metavar="NAME=VALUE", help="Template variable of the queue. May be repeated."),
]
Priority: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="PRIORITY", help="critical, high, medium or low.", autocompletion=completion.priorities
    ),
]
