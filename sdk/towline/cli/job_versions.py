"""`towline job alias|delete|retention`: the life of a job's versions."""

from typing import Annotated

import typer

from towline.cli import completion, options, version_life
from towline.cli.connection import connect

__all__ = ["alias", "delete", "retention"]


def alias(
    version: Annotated[
        str,
        typer.Argument(metavar="JOB:VERSION", help="What it is to point at.", autocompletion=completion.jobs),
    ],
    alias: version_life.Alias = "",
    expect: version_life.Expect = "",
    delete: version_life.Delete = False,
    json: options.Json = False,
) -> None:
    """Make an alias point at a version of a job, or take it away with --delete JOB:ALIAS."""
    name = version_life.aliased(version, alias, delete=delete, expect=expect)
    with connect() as client:
        if delete:
            version_life.delete_alias(client.jobs, name, as_json=json)
        else:
            version_life.set_alias(client.jobs, name, alias, expect, as_json=json)


def delete(
    versions: Annotated[
        list[str],
        typer.Argument(metavar="JOB:VERSION...", help="Such as train:v3.", autocompletion=completion.jobs),
    ],
    json: options.Json = False,
) -> None:
    """Delete versions of jobs; one that a run refers to, or an alias other than latest, is refused."""
    with connect() as client:
        version_life.delete(client.jobs, versions, as_json=json)


def retention(
    job: Annotated[
        str, typer.Argument(metavar="JOB", help="Name of the job.", autocompletion=completion.jobs)
    ],
    keep_newest: version_life.KeepNewest = None,
    keep_for: version_life.KeepFor = None,
    keep_all: version_life.KeepAll = False,
    json: options.Json = False,
) -> None:
    """Say which versions are deleted by themselves: those that no rule keeps and nothing refers to."""
    wanted = version_life.policy(keep_newest, keep_for, keep_all=keep_all)
    with connect() as client:
        version_life.set_retention(client.jobs, job, wanted, as_json=json)
