"""`towline artifact list|show|lineage|alias|delete|retention`: what the registry knows of artifacts."""

from typing import Annotated

import typer

from towline.cli import completion, options, output, version_life
from towline.cli.connection import connect

__all__ = ["alias", "delete", "lineage", "list_artifacts", "retention", "show"]


def list_artifacts(
    kind: Annotated[
        str | None,
        typer.Option("--type", metavar="TYPE", parser=options.given, help="Only of this type."),
    ] = None,
    json: options.Json = False,
) -> None:
    """List artifacts by name."""
    from towline.cli import words
    from towline.names import short

    with connect() as client:
        found = list(client.artifacts.list(kind or ""))
    if json:
        return output.messages(found)
    return output.table(
        ("ARTIFACT", "TYPE", "LATEST", "VERSIONS", "SINCE"),
        (
            (
                short(artifact.name),
                artifact.type,
                short(artifact.latest_version).rpartition(":")[2],
                str(artifact.version_count),
                words.moment(artifact.create_time),
            )
            for artifact in found
        ),
    )


def show(artifact: options.ArtifactName, json: options.Json = False) -> None:
    """Show a version of an artifact, by default its latest, and which others there are."""
    from towline.cli import artifact_pages
    from towline.names import ArtifactVersionName, split_version

    with connect() as client:
        version = client.artifacts.get(artifact)
        if json:
            return output.message(version)
        parent, _ = split_version(ArtifactVersionName(version.name))
        return output.rendered(
            artifact_pages.artifact_version(version, list(client.artifacts.versions(parent)))
        )


def lineage(
    artifact: options.ArtifactName,
    limit: Annotated[
        int, typer.Option("--limit", "-n", min=1, max=1000, help="Most runs to name that read it.")
    ] = 50,
    json: options.Json = False,
) -> None:
    """Show which run made a version and what that read, which runs read it, and what they made."""
    from towline.cli import artifact_pages

    with connect() as client:
        found = client.artifacts.lineage(artifact, limit)
    if json:
        return output.message(found)
    return output.rendered(artifact_pages.lineage(found))


def alias(
    version: Annotated[
        str,
        typer.Argument(
            metavar="ARTIFACT:VERSION", help="What it is to point at.", autocompletion=completion.artifacts
        ),
    ],
    alias: version_life.Alias = "",
    expect: version_life.Expect = "",
    delete: version_life.Delete = False,
    json: options.Json = False,
) -> None:
    """Make an alias point at a version of an artifact, or take it away with --delete ARTIFACT:ALIAS."""
    name = version_life.aliased(version, alias, delete=delete, expect=expect)
    with connect() as client:
        if delete:
            version_life.delete_alias(client.artifacts, name, as_json=json)
        else:
            version_life.set_alias(client.artifacts, name, alias, expect, as_json=json)


def delete(
    versions: Annotated[
        list[str],
        typer.Argument(
            metavar="ARTIFACT:VERSION...", help="Such as digits:v3.", autocompletion=completion.artifacts
        ),
    ],
    json: options.Json = False,
) -> None:
    """Delete versions of artifacts; what a run, a job, or an alias other than latest refers to is refused."""
    with connect() as client:
        version_life.delete(client.artifacts, versions, as_json=json)


def retention(
    artifact: Annotated[
        str,
        typer.Argument(metavar="ARTIFACT", help="Name of the artifact.", autocompletion=completion.artifacts),
    ],
    keep_newest: version_life.KeepNewest = None,
    keep_for: version_life.KeepFor = None,
    keep_all: version_life.KeepAll = False,
    json: options.Json = False,
) -> None:
    """Say which versions are deleted by themselves: those that no rule keeps and nothing refers to."""
    wanted = version_life.policy(keep_newest, keep_for, keep_all=keep_all)
    with connect() as client:
        version_life.set_retention(client.artifacts, artifact, wanted, as_json=json)
