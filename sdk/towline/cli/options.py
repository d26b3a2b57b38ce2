"""Options and arguments that several commands share."""

from pathlib import Path
from typing import Annotated, Final, TypeAlias

import typer

from towline.cli import completion
from towline.errors import InvalidArgument

__all__ = [
    "MOST_RUNS",
    "AgentFolder",
    "AgentName",
    "ArtifactName",
    "BuildArgs",
    "ByAuthor",
    "DataDir",
    "DisplayName",
    "Dockerfile",
    "Extras",
    "Follow",
    "InStates",
    "JobName",
    "Json",
    "Lock",
    "MaxRuntime",
    "MaxWait",
    "OfJob",
    "OfQueue",
    "OtherDockerfile",
    "Priority",
    "QueueName",
    "QueueOption",
    "Retries",
    "RunName",
    "Settings",
    "Target",
    "Variables",
    "WithLabels",
    "given",
    "most",
]

# In one command: more than anybody reads, and little enough to hold and to undo.
MOST_RUNS: Final = 10_000


def given(text: str) -> str:
    """Refuse an empty value: a shell's unset variable would silently mean "the default" or "all"."""
    if not text:
        raise typer.BadParameter("must not be empty")
    return text


def _folder(text: str) -> Path:
    return Path(given(text))


def most(count: int, option: str, remedy: str) -> int:
    """Check a number of runs.

    Raises:
        InvalidArgument: It is above the bound; the message names the remedy.
    """
    if count > MOST_RUNS:
        raise InvalidArgument.field(option, f"{count:,} is more than {MOST_RUNS:,}; {remedy}")
    return count


Json: TypeAlias = Annotated[bool, typer.Option("--json", help="Write JSON, errors too.")]
DataDir: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        parser=_folder,
        help="Folder with all state.",
        show_default="$TOWLINE_DATA_DIR, else ~/.towline",
    ),
]
AgentFolder: TypeAlias = Annotated[
    Path | None, typer.Option("--data-dir", metavar="FOLDER", parser=_folder, help="The agent's own folder.")
]
DisplayName: TypeAlias = Annotated[
    str | None, typer.Option("--name", metavar="NAME", parser=given, help="Name of the run, for people.")
]
OfQueue: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--queue",
        "-q",
        metavar="QUEUE",
        parser=given,
        help="Only of this queue.",
        autocompletion=completion.queues,
    ),
]
OfJob: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--job",
        metavar="JOB",
        parser=given,
        help="Only of this job, or JOB:VERSION.",
        autocompletion=completion.jobs,
    ),
]
ByAuthor: TypeAlias = Annotated[
    str | None, typer.Option("--author", metavar="AUTHOR", parser=given, help="Only by this author.")
]
InStates: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--state", metavar="STATE", help="Only in this state, such as failed or unreachable. May be repeated."
    ),
]
WithLabels: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--label", metavar="KEY=VALUE", help="Only with this label. May be repeated."),
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
ArtifactName: TypeAlias = Annotated[
    str,
    typer.Argument(
        metavar="ARTIFACT[:ALIAS]",
        help="Artifact, by default its latest version.",
        autocompletion=completion.artifacts,
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
        metavar="PRIORITY",
        parser=given,
        help="critical, high, medium or low.",
        autocompletion=completion.priorities,
    ),
]
Retries: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--retries",
        metavar="[CAUSE=]N",
        help="Try again up to N times when the program fails, or for CAUSE (such as oom). May be repeated.",
    ),
]
MaxRuntime: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--max-runtime", metavar="TIME", parser=given, help="Stop an attempt that runs longer, such as 2h."
    ),
]
MaxWait: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--max-wait", metavar="TIME", parser=given, help="Give up a run that waits longer, such as 30m."
    ),
]
Lock: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        parser=_folder,
        help="Lock of the project that goes in place of what is installed, such as uv.lock.",
    ),
]
Dockerfile: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        parser=_folder,
        help="Dockerfile to build the image with; by default Dockerfile.towline, if the project has one.",
    ),
]
OtherDockerfile: TypeAlias = Annotated[
    str,
    typer.Option(
        "--dockerfile",
        metavar="PATH",
        help="Dockerfile of the job's source to build with, if the queue allows it.",
    ),
]
BuildArgs: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--build-arg",
        metavar="NAME=VALUE",
        help="Build argument of the Dockerfile, no secret. May be repeated.",
    ),
]
Target: TypeAlias = Annotated[
    str,
    typer.Option("--target", metavar="STAGE", help="Stage of the Dockerfile; by default its last."),
]
SystemPackages: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--system-package",
        metavar="NAME",
        help="Debian package that containers need, besides those in apt.txt. May be repeated.",
    ),
]
Platform: TypeAlias = Annotated[
    str,
    typer.Option(
        "--platform",
        metavar="OS/ARCH",
        help="Platform of the image, such as linux/arm64, or any; by default that of a recorded environment, "
        "else any.",
    ),
]
Extras: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--extra", metavar="NAME", help="Extra or group of a uv.lock to install. May be repeated."),
]
