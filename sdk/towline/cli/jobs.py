"""`towline job …`: what can be run."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from towline.cli import options, output
from towline.cli.connection import connect

if TYPE_CHECKING:
    from towline.v1 import jobs_pb2

__all__ = ["app"]

app = typer.Typer(help="Make and see jobs.", no_args_is_help=True, rich_markup_mode=None)
_create = typer.Typer(
    help="Make a version of a job by hand; usually `towline.init` in the script records it.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(_create, name="create")

_Config = Annotated[Path | None, typer.Option(metavar="FILE", help="Default parameters as YAML or JSON.")]
_Python = Annotated[str, typer.Option(metavar="VERSION", help="Such as 3.11.")]
_Requirements = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Requirements, one a line, as for pip.")
]
_Schema = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="JSON Schema of the parameters, as JSON or YAML; by default their types are taken as they are.",
    ),
]
_Aliases = Annotated[
    list[str] | None, typer.Option("--alias", help="Alias for the version, besides latest. May be repeated.")
]
_Command = Annotated[
    list[str], typer.Argument(metavar="COMMAND", help="After --, such as: -- python train.py")
]
_Name = Annotated[str, typer.Option("--name", metavar="JOB", help="Name of the job.")]


@app.command("list")
def list_jobs(json: options.Json = False) -> None:
    """List jobs by name."""
    from towline.cli import words
    from towline.names import short

    with connect() as client:
        found = list(client.jobs.list())
    if json:
        return output.messages(found)
    return output.table(
        ("JOB", "LATEST", "VERSIONS", "SINCE"),
        (
            (
                short(job.name),
                short(job.latest_version).rpartition(":")[2],
                str(job.version_count),
                words.moment(job.create_time),
            )
            for job in found
        ),
    )


@app.command()
def show(job: options.JobName, json: options.Json = False) -> None:
    """Show a version of a job, by default its latest, and which others there are."""
    from towline.cli import pages
    from towline.names import JobVersionName, split_version

    with connect() as client:
        version = client.jobs.get(job)
        if json:
            return output.message(version)
        parent, _ = split_version(JobVersionName(version.name))
        return output.rendered(pages.job_version(version, list(client.jobs.versions(parent))))


@_create.command()
def code(
    command: _Command,
    name: _Name = "",
    config: _Config = None,
    schema: _Schema = None,
    config_files: Annotated[
        list[str] | None,
        typer.Option(
            "--config-file",
            metavar="KEY=FILE",
            help="File in JSON or YAML that is the parameter KEY; a run finds its own content there. "
            "May be repeated.",
        ),
    ] = None,
    python: Annotated[str, typer.Option(metavar="VERSION", help="By default this environment's.")] = "",
    requirements: _Requirements = None,
    lock: options.Lock = None,
    extras: options.Extras = None,
    dockerfile: options.Dockerfile = None,
    build_args: options.BuildArgs = None,
    target: options.Target = "",
    system_packages: options.SystemPackages = None,
    platform: options.Platform = "",
    aliases: _Aliases = None,
    json: options.Json = False,
) -> None:
    """Snapshot the current folder and this Python environment, without running anything."""
    from towline.cli import recording

    with output.working("recording"):
        given = recording.Given(
            config,
            python,
            requirements,
            aliases or (),
            schema=schema,
            config_files=config_files or (),
            lock=lock,
            extras=extras or (),
            dockerfile=dockerfile,
            build_args=build_args or (),
            target=target,
            system_packages=system_packages or (),
            platform=platform,
        )
        made = recording.from_folder(command, name, given)
    _tell(made, as_json=json)


@_create.command()
def git(
    remote: Annotated[str, typer.Argument(metavar="URL", help="Repository, without credentials.")],
    command: _Command,
    name: _Name,
    commit: Annotated[str, typer.Option("--commit", metavar="REF", help="Commit, branch or tag.")] = "HEAD",
    subfolder: Annotated[
        str, typer.Option(metavar="DIR", help="Folder that becomes the root of the source.")
    ] = "",
    patch: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="What goes over the commit, as git diff --binary writes it."),
    ] = None,
    config: _Config = None,
    schema: _Schema = None,
    python: _Python = "3.11",
    requirements: _Requirements = None,
    dockerfile: Annotated[
        str,
        typer.Option(
            metavar="PATH", help="Dockerfile to build the image with, relative to the root of the source."
        ),
    ] = "",
    build_args: options.BuildArgs = None,
    target: options.Target = "",
    system_packages: options.SystemPackages = None,
    platform: options.Platform = "",
    aliases: _Aliases = None,
    json: options.Json = False,
) -> None:
    """Make a job of a commit that agents fetch themselves."""
    from towline.cli import job_sources, submission
    from towline.cli.recording import Given
    from towline.v1 import jobs_pb2

    source = jobs_pb2.GitSource(remote=remote, commit=commit, subfolder=subfolder)
    given = Given(
        config,
        python,
        requirements,
        aliases or (),
        schema=schema,
        system_packages=system_packages or (),
        platform=platform,
    )
    build = submission.dockerfile(dockerfile, build_args or (), target)
    with output.working("asking the repository"):
        made = job_sources.from_git(source, patch, build, command, name, given)
    _tell(made, as_json=json)


@_create.command()
def image(
    reference: Annotated[str, typer.Argument(metavar="IMAGE", help="As docker pull takes it.")],
    name: _Name,
    command: Annotated[
        list[str] | None,
        typer.Argument(metavar="COMMAND", help="After --; by default the image's own.", show_default=False),
    ] = None,
    resolve: Annotated[
        bool, typer.Option("--resolve/--no-resolve", help="Keep the digest that a tag has now, or the tag.")
    ] = True,
    config: _Config = None,
    schema: _Schema = None,
    platform: options.Platform = "",
    aliases: _Aliases = None,
    json: options.Json = False,
) -> None:
    """Make a job of a container image."""
    from towline.cli import job_sources
    from towline.cli.recording import Given

    given = Given(config, "", None, aliases or (), schema=schema, platform=platform)
    with output.working("asking the image's registry"):
        made = job_sources.from_image(reference, command or (), name, given, resolve=resolve)
    _tell(made, as_json=json)


def _tell(made: "jobs_pb2.CreateJobVersionResponse", *, as_json: bool) -> None:
    from towline.names import short

    if as_json:
        output.message(made)
    else:
        name = short(made.job_version.name)
        output.text(f"{'recorded' if made.created else 'unchanged'} {name}")
