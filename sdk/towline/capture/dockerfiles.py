"""A project's own Dockerfile, which its image is built with in place of what is installed."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from towline.errors import InvalidArgument

if TYPE_CHECKING:
    from towline.v1 import jobs_pb2

__all__ = ["DEFAULT", "Dockerfile", "DockerfileWish", "find"]

DEFAULT: Final = "Dockerfile.towline"
"""Taken where it lies in the root of a source tree."""


@dataclass(frozen=True)
class DockerfileWish:
    """What people say of it."""

    file: Path | None = None
    """Absolute; None: DEFAULT, if it is there."""
    build_args: Mapping[str, str] = field(default_factory=dict)
    target: str = ""
    """Stage to build; empty: the last."""


@dataclass(frozen=True)
class Dockerfile:
    """One that is part of a snapshot."""

    path: str
    """In the source tree, relative."""
    build_args: Mapping[str, str]
    target: str

    def message(self) -> "jobs_pb2.DockerfileBuild":
        """Return it as jobs have it."""
        from towline.v1 import jobs_pb2  # noqa: PLC0415 - protobuf is loaded at the end of a recording

        return jobs_pb2.DockerfileBuild(path=self.path, build_args=self.build_args, target=self.target)


def find(wish: DockerfileWish, root: Path, paths: Collection[str]) -> Dockerfile | None:
    """Find the Dockerfile that an image is to be built with; None: there is none.

    Args:
        wish: What people said.
        root: Folder of the source tree.
        paths: What of it is part of the snapshot, relative.

    Raises:
        InvalidArgument: It is not part of the snapshot, or what was said goes with one and there is none.
    """
    if wish.file is None:
        if DEFAULT in paths:
            return Dockerfile(DEFAULT, wish.build_args, wish.target)
        for option, value in (("--build-arg", wish.build_args), ("--target", wish.target)):
            if value:
                raise InvalidArgument.field(
                    option, f"goes with a Dockerfile, and {root} has no {DEFAULT}; name one with --dockerfile"
                )
        return None
    try:
        path = wish.file.resolve().relative_to(root.resolve()).as_posix()
    except ValueError:
        raise InvalidArgument.field(
            "--dockerfile", f"{wish.file} lies outside of the source tree, {root}; put it there"
        ) from None
    if path not in paths:
        left_out = "it is left out of the snapshot; see .gitignore and .towlineignore"
        why = left_out if wish.file.exists() else "there is no such file"
        raise InvalidArgument.field("--dockerfile", f"{wish.file}: {why}")
    return Dockerfile(path, wish.build_args, wish.target)
