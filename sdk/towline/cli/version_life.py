"""What is said of the life of versions, of jobs as of artifacts: aliases and how long they are kept."""

from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from towline.cli import options, output
from towline.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Sequence

    from towline.client.sync import Series
    from towline.v1 import jobs_pb2

__all__ = [
    "Alias",
    "Delete",
    "Expect",
    "KeepAll",
    "KeepFor",
    "KeepNewest",
    "aliased",
    "delete",
    "delete_alias",
    "policy",
    "set_alias",
    "set_retention",
]

Alias: TypeAlias = Annotated[
    str, typer.Argument(metavar="ALIAS", help="A name such as best.", show_default=False)
]
Expect: TypeAlias = Annotated[
    str,
    typer.Option(
        metavar="VERSION|none",
        help="Move the alias only if it points there now; none: only if it is new.",
        show_default=False,
    ),
]
Delete: TypeAlias = Annotated[bool, typer.Option("--delete", help="Take the alias away; the version stays.")]
KeepNewest: TypeAlias = Annotated[
    int | None, typer.Option("--keep-newest", metavar="N", min=1, help="Keep so many of the newest.")
]
KeepFor: TypeAlias = Annotated[
    str | None,
    typer.Option("--keep-for", metavar="TIME", parser=options.given, help="Keep those younger, such as 90d."),
]
KeepAll: TypeAlias = Annotated[bool, typer.Option("--none", help="Delete none by themselves.")]


def aliased(name: str, alias: str, *, delete: bool, expect: str) -> str:
    """Check what is said of an alias; with `delete`, give its whole short name: "a:best" of "a" and "best".

    Raises:
        InvalidArgument: There is no alias, or `expect` is said of one that goes away.
    """
    if not delete:
        if not alias:
            raise InvalidArgument.field("ALIAS", f"name the alias that is to point at {name}")
        return name
    if expect:
        raise InvalidArgument.field("--expect", "an alias is taken away whatever it points at; leave it out")
    if alias:
        return f"{name.partition(':')[0]}:{alias}"
    if ":" not in name:
        raise InvalidArgument.field("ALIAS", f"name the alias that is to go: {name}:ALIAS")
    return name


def set_alias(series: "Series", name: str, alias: str, expect: str, *, as_json: bool) -> None:
    """Make an alias point at a version, and say so."""
    from towline.names import short

    moved = series.set_alias(name, alias, expect)
    if as_json:
        output.message(moved)
    else:
        output.text(f"{alias} is {short(moved.name)}")


def delete_alias(series: "Series", name: str, *, as_json: bool) -> None:
    """Take away an alias, given with its series as "a:best", and say so."""
    series.delete_alias(name)
    if as_json:
        output.document({"deleted": name})
    else:
        output.text(f"took away {name}")


def delete(series: "Series", versions: "Sequence[str]", *, as_json: bool) -> None:
    """Delete versions, and say of each that it is.

    Raises:
        InvalidArgument: One is not named as such: what is deleted is never "the latest". None is then.
    """
    for name in versions:
        if ":" not in name and "/versions/" not in name:
            raise InvalidArgument.field("VERSION", f"name the version itself, such as {name}:v0")
    for name in versions:
        series.delete_version(name)
        if not as_json:
            output.text(f"deleted {name}")
    if as_json:
        output.document({"deleted": versions})


def policy(
    keep_newest: int | None, keep_for: str | None, *, keep_all: bool
) -> "jobs_pb2.RetentionPolicy | None":
    """Read a policy; None: all are kept.

    Raises:
        InvalidArgument: Nothing is said, a duration cannot be read, or `keep_all` is said besides a rule.
    """
    from google.protobuf.duration_pb2 import Duration

    from towline import durations
    from towline.v1 import jobs_pb2

    if keep_all:
        if keep_newest or keep_for:
            raise InvalidArgument.field("--none", "it keeps all; leave out --keep-newest and --keep-for")
        return None
    if not keep_newest and not keep_for:
        raise InvalidArgument.field("--keep-newest", "say what is kept: --keep-newest, --keep-for or --none")
    span: Duration | None = None
    if keep_for:
        span = Duration()
        span.FromTimedelta(durations.parse(keep_for, "--keep-for"))
    return jobs_pb2.RetentionPolicy(keep_newest=keep_newest or 0, keep_for=span)


def set_retention(
    series: "Series", name: str, retention: "jobs_pb2.RetentionPolicy | None", *, as_json: bool
) -> None:
    """Say which versions of a job or an artifact are kept, and write that as people say it."""
    made = series.set_retention(name, retention)
    if as_json:
        output.message(made)
    else:
        output.text(f"{name}: {_kept(retention)}")


def _kept(retention: "jobs_pb2.RetentionPolicy | None") -> str:
    from towline import durations

    if retention is None:
        return "all versions are kept"
    rules = []
    if retention.keep_newest:
        rules.append(f"the newest {retention.keep_newest}")
    if retention.HasField("keep_for"):
        rules.append(f"those younger than {durations.written(retention.keep_for.ToTimedelta())}")
    return f"kept are {' and '.join(rules)}, what has an alias and what is in use"
