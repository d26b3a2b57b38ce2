"""`towline submit` and `towline launch`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from towline.cli import options, output
from towline.cli.connection import connect
from towline.cli.exit_codes import ExitCode
from towline.cli.runs import follow_to_end
from towline.errors import InvalidArgument

if TYPE_CHECKING:
    from towline.v1 import runs_pb2

__all__ = ["carry_out", "launch", "submit"]

_Config = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Parameters as YAML or JSON; --set goes over it.")
]
_Gpus = Annotated[int | None, typer.Option(metavar="N", min=0, help="Short for --var gpus=N.")]
_Labels = Annotated[
    list[str] | None, typer.Option("--label", metavar="KEY=VALUE", help="Free label. May be repeated.")
]

_Inputs = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        metavar="NAME=ARTIFACT[:VERSION]",
        help="Artifact to read, in place of the job's input of that name or besides them. May be repeated.",
    ),
]


def submit(
    job: options.JobName,
    queue: options.QueueOption = "default",
    settings: options.Settings = None,
    config: _Config = None,
    variables: options.Variables = None,
    priority: options.Priority = None,
    gpus: _Gpus = None,
    count: Annotated[int, typer.Option(metavar="N", min=1, help="Submit N identical runs.")] = 1,
    name: options.DisplayName = None,
    labels: _Labels = None,
    inputs: _Inputs = None,
    retries: options.Retries = None,
    max_runtime: options.MaxRuntime = None,
    max_wait: options.MaxWait = None,
    dockerfile: options.OtherDockerfile = "",
    build_args: options.BuildArgs = None,
    target: options.Target = "",
    follow: options.Follow = False,
    json: options.Json = False,
) -> int:
    """Put a job on a queue.

    Parameters that are not given are those it was recorded with. Prints the id of each run; with
    --follow its states and log, and the exit code says how it ended.
    """
    from towline.cli import submission

    if follow and count > 1:
        raise InvalidArgument.field("--follow", "follows one run; leave it out, or --count")
    options.most(count, "--count", "submit them in several commands")
    wishes = submission.Wishes(
        settings=settings or (),
        config=config,
        variables=variables or (),
        gpus=gpus,
        priority=priority,
        name=name or "",
        labels=labels or (),
        inputs=inputs or (),
        retries=retries or (),
        max_runtime=max_runtime,
        max_wait=max_wait,
        dockerfile=dockerfile,
        build_args=build_args or (),
        target=target,
    )
    return carry_out(submission.build(job, queue, wishes), count=count, follow=follow, as_json=json)


def launch(
    command: Annotated[
        list[str], typer.Argument(metavar="COMMAND", help="After --, such as: -- python train.py --epochs 3")
    ],
    queue: options.QueueOption = "default",
    job: Annotated[
        str | None,
        typer.Option(
            metavar="JOB",
            parser=options.given,
            help="Name of the job; by default made from folder and script.",
        ),
    ] = None,
    settings: options.Settings = None,
    config: _Config = None,
    variables: options.Variables = None,
    priority: options.Priority = None,
    gpus: _Gpus = None,
    name: options.DisplayName = None,
    labels: _Labels = None,
    inputs: _Inputs = None,
    retries: options.Retries = None,
    max_runtime: options.MaxRuntime = None,
    max_wait: options.MaxWait = None,
    lock: options.Lock = None,
    extras: options.Extras = None,
    dockerfile: options.Dockerfile = None,
    build_args: options.BuildArgs = None,
    target: options.Target = "",
    system_packages: options.SystemPackages = None,
    platform: options.Platform = "",
    follow: options.Follow = False,
    json: options.Json = False,
) -> int:
    """Record a command and put it on a queue.

    It is not run here: a snapshot of its folder and of its Python environment becomes a job. --set and
    --config are this run's; the job keeps the parameters it was recorded with, and takes any if it is new.
    """
    from towline.cli import recording, submission
    from towline.names import short

    wishes = submission.Wishes(
        settings=settings or (),
        config=config,
        variables=variables or (),
        gpus=gpus,
        priority=priority,
        name=name or "",
        labels=labels or (),
        inputs=inputs or (),
        retries=retries or (),
        max_runtime=max_runtime,
        max_wait=max_wait,
    )
    wanted = submission.build("", queue, wishes)  # what is wrong with it is told before anything is recorded
    with output.working("recording"):
        given = recording.Given(
            lock=lock,
            extras=extras or (),
            dockerfile=dockerfile,
            build_args=build_args or (),
            target=target,
            system_packages=system_packages or (),
            platform=platform,
        )
        made = recording.from_folder(command, job or "", given)
    version = made.job_version.name
    _say(f"{'recorded' if made.created else 'unchanged'} {short(version)}")
    wanted.job = version
    return carry_out(wanted, follow=follow, as_json=json)


def carry_out(wanted: "runs_pb2.RunSubmission", *, count: int = 1, follow: bool, as_json: bool) -> int:
    """Submit runs, tell of them or follow the one to its end, and give the exit code."""
    from towline.names import short

    if count > 1:
        _submit_many(wanted, count, as_json=as_json)
        return ExitCode.OK
    with connect() as client:
        run = client.runs.submit(wanted)
    if follow:
        _say(f"run {short(run.name)}: {short(run.job_version)} on {short(run.queue)}")
        return follow_to_end(run.name, as_json=as_json)
    if as_json:
        output.message(run)
        return ExitCode.OK
    output.text(short(run.name))
    if sys.stderr.isatty():
        _say(f"{short(run.job_version)} waits in {short(run.queue)}: towline run logs -f {short(run.name)}")
    return ExitCode.OK


def _submit_many(wanted: "runs_pb2.RunSubmission", count: int, *, as_json: bool) -> None:
    """Submit batch by batch, so that runs which are queued are told even where a later batch fails."""
    from towline.client.runs import MOST_BYTES, MOST_RUNS
    from towline.names import short

    at_once = max(1, min(MOST_RUNS, MOST_BYTES // (wanted.ByteSize() or 1)))
    queued: list[str] = []
    try:
        with connect() as client:
            while left := count - len(queued):
                names = client.runs.submit_many([wanted] * min(left, at_once))
                queued += names
                if not as_json:
                    output.text("\n".join(map(short, names)))
    finally:
        if as_json and queued:
            output.document({"runs": queued})


def _say(line: str) -> None:
    """Tell a person something, away from standard output, which is for programs."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
