"""What is wrong with how an image is to be built with a Dockerfile; and one way of it put over another."""

import re
from collections.abc import Iterator
from typing import Final

from towline.errors import InvalidArgument
from towline.v1 import jobs_pb2

__all__ = ["check", "overridden", "problems"]

MAX_PATH_CHARACTERS: Final = 1024
MAX_ARGS: Final = 64
MAX_ARG_CHARACTERS: Final = 4096
MAX_TARGET_CHARACTERS: Final = 128

_ARG: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_TARGET: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


def problems(build: jobs_pb2.DockerfileBuild) -> Iterator[tuple[str, str]]:
    """Give each field that is wrong, such as "build_args", with what to do; an empty path is not."""
    path = build.path
    if path and (
        len(path) > MAX_PATH_CHARACTERS
        or not path.isprintable()
        or any(part in ("", ".", "..") for part in path.split("/"))
    ):
        yield (
            "path",
            f"{path[:80]!r} is no path in the source tree; write it as docker/Dockerfile",
        )
    if len(build.build_args) > MAX_ARGS:
        yield "build_args", f"{len(build.build_args)} are too many; at most {MAX_ARGS} are taken"
    for name, value in sorted(build.build_args.items()):
        if not _ARG.fullmatch(name):
            yield "build_args", f"{name[:80]!r} is no name; take letters, digits and '_', 128 at most"
        elif len(value) > MAX_ARG_CHARACTERS or "\0" in value:
            yield (
                f"build_args[{name}]",
                f"its value has more than {MAX_ARG_CHARACTERS} characters, or a NUL; shorten it",
            )
    if build.target and not (len(build.target) <= MAX_TARGET_CHARACTERS and _TARGET.fullmatch(build.target)):
        yield "target", f"{build.target[:80]!r} is no stage; write its name (FROM … AS name) or number"


def check(build: jobs_pb2.DockerfileBuild, field: str) -> None:
    """Check how an image is to be built; InvalidArgument names the part of `field` that is wrong."""
    for name, problem in problems(build):
        raise InvalidArgument.field(f"{field}.{name}", problem)


def overridden(job: jobs_pb2.DockerfileBuild, given: jobs_pb2.DockerfileBuild) -> jobs_pb2.DockerfileBuild:
    """Return a job's build with what a submission says in its place, see RunSubmission.dockerfile."""
    if given.path:
        return given
    made = jobs_pb2.DockerfileBuild()
    made.CopyFrom(job)
    made.MergeFrom(given)
    return made
