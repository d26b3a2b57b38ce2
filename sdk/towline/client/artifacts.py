"""Artifacts: folders as manifests of blobs."""

import asyncio
import os
import shutil
from collections import defaultdict
from collections.abc import AsyncGenerator, Container, Iterator, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final

from towline.client import digests, shorthand
from towline.client.blobs import Blobs
from towline.client.calls import PAGE_SIZE, Service, listed, new_request_id
from towline.client.parallel import in_parallel
from towline.errors import AlreadyExists, FailedPrecondition, InvalidArgument
from towline.v1 import artifacts_pb2
from towline.v1.artifacts_pb2_grpc import ArtifactServiceStub

if TYPE_CHECKING:
    from towline.client.digests import Measured
    from towline.v1.artifacts_pb2_grpc import ArtifactServiceAsyncStub

__all__ = ["Artifacts"]

# In an error, so that it stays readable.
_MOST_NAMED: Final = 5


class Artifacts:
    """Named, versioned sets of files."""

    def __init__(self, registry: Service, blobs: Blobs) -> None:
        self._registry = registry
        self._blobs = blobs

    @cached_property
    def _stub(self) -> "ArtifactServiceAsyncStub":
        return ArtifactServiceStub(self._registry.channel)

    async def create(
        self,
        name: str,
        type: str,
        root: Path,
        producer_run: str = "",
    ) -> artifacts_pb2.CreateArtifactVersionResponse:
        """Upload the files below a folder and make them a version of an artifact.

        Symbolic links to files are read as those files; links to folders and special files are left out.
        Equal files are uploaded once, and those the registry has not at all.

        Args:
            name: The artifact, "digits" or "artifacts/digits".
            type: What it is, such as "dataset".
            root: The folder.
            producer_run: The run that made it; empty: made by hand.

        Returns:
            The version; `created` is false where the newest one already had this content.

        Raises:
            InvalidArgument: `root` is no folder, or a file's name is not UTF-8.
            TowlineError: What the registry answered, or Unavailable.
        """
        artifact = shorthand.artifact(name)
        paths = await asyncio.to_thread(_files_below, root)
        measured: dict[str, Measured] = {}

        async def measure(path: str) -> None:
            measured[path] = await asyncio.to_thread(digests.measure, root / path)

        await in_parallel(paths, measure)
        where = {measured[path].digest: path for path in paths}
        lacking = await self._blobs.missing(where)

        async def send(digest: str) -> None:
            await self._blobs.send(root / where[digest], measured[where[digest]])

        await in_parallel(lacking, send)
        request = artifacts_pb2.CreateArtifactVersionRequest(
            request_id=new_request_id(),
            artifact=artifact,
            type=type,
            files=[
                artifacts_pb2.ArtifactFile(
                    path=path,
                    digest=measured[path].digest,
                    size_bytes=measured[path].size_bytes,
                    executable=os.access(root / path, os.X_OK),
                )
                for path in paths
            ],
            producer_run=shorthand.run(producer_run) if producer_run else "",
        )
        return await self._registry.call(self._stub.CreateArtifactVersion, request)

    async def get(self, name: str) -> artifacts_pb2.ArtifactVersion:
        """Get one version with its files; the latest where the name says none."""
        request = artifacts_pb2.GetArtifactVersionRequest(name=shorthand.artifact_version(name))
        return (await self._registry.call(self._stub.GetArtifactVersion, request)).artifact_version

    async def versions(self, name: str) -> AsyncGenerator[artifacts_pb2.ArtifactVersion, None]:
        """Walk through the versions of an artifact, newest first, without their files."""
        parent = shorthand.artifact(name)

        async def fetch(token: str) -> tuple[Sequence[artifacts_pb2.ArtifactVersion], str]:
            request = artifacts_pb2.ListArtifactVersionsRequest(
                parent=parent, page_size=PAGE_SIZE, page_token=token
            )
            page = await self._registry.call(self._stub.ListArtifactVersions, request)
            return page.artifact_versions, page.next_page_token

        async for item in listed(fetch):
            yield item

    async def download(self, name: str, to: Path, *, replace: bool = True) -> artifacts_pb2.ArtifactVersion:
        """Write a version's files below the folder `to`; those that are there with this content are kept.

        Args:
            name: The version, such as "digits:v0".
            to: The folder; it is made where it is missing.
            replace: Whether files that are there with other content are replaced; else they are refused.

        Raises:
            AlreadyExists: One is there with other content and `replace` is false; nothing is written then;
                reason FILE_EXISTS.
            InvalidArgument: A path of the manifest leaves `to`; nothing is written then.
            FailedPrecondition: A link that is already below `to` leads out of it; reason PATH_LEAVES_FOLDER.
            OSError: A file cannot be written.
            TowlineError: What the registry answered, or Unavailable.
        """
        version = await self.get(name)
        places: dict[str, list[tuple[Path, bool]]] = defaultdict(list)
        await asyncio.to_thread(to.mkdir, parents=True, exist_ok=True)
        for file in version.files:
            places[file.digest].append((_below(to, file.path), file.executable))
        kept: set[Path] = set()
        others: list[Path] = []

        async def compare(digest: str) -> None:
            for place, _ in places[digest]:
                match await asyncio.to_thread(_holds, place, digest):
                    case True:
                        kept.add(place)
                    case False:
                        others.append(place)

        await in_parallel(places, compare)
        if others and not replace:
            raise _exist(to, others)

        async def fetch(digest: str) -> None:
            copies = sorted(places[digest], key=lambda copy: copy[0] not in kept)
            (first, _), *_ = copies
            if first not in kept:
                await self._blobs.download(digest, first)
            await asyncio.to_thread(_spread, copies, kept)

        await in_parallel(places, fetch)
        return version


def _files_below(root: Path) -> list[str]:
    """List regular files below a folder: relative, "/"-separated, sorted."""
    if not root.is_dir():
        raise InvalidArgument.field("root", f"{root} is not a folder")
    paths = sorted(_walk(root))
    for path in paths:
        try:
            path.encode()
        except UnicodeEncodeError:
            raise InvalidArgument.field(
                "root", f"the name of {path!r} is not UTF-8; give the file another name"
            ) from None
    return paths


def _walk(root: Path) -> Iterator[str]:
    for folder, _, names in os.walk(root):
        for name in names:
            path = Path(folder, name)
            if path.is_file():
                yield path.relative_to(root).as_posix()


def _below(folder: Path, path: str) -> Path:
    """Give the place of a manifest's path below a folder; refuse one that leaves it."""
    pure = PurePosixPath(path)
    if not path or pure.is_absolute() or ".." in pure.parts or "\0" in path:
        raise InvalidArgument.field("files", f"the manifest's path {path!r} leaves the folder")
    place = folder / pure
    if not place.parent.resolve().is_relative_to(folder.resolve()):
        raise FailedPrecondition(
            f"{place.parent} is a link that leads out of {folder}; remove it or choose another folder",
            reason="PATH_LEAVES_FOLDER",
        )
    return place


def _holds(place: Path, digest: str) -> bool | None:
    """Say whether a file has a content; None: nothing is there."""
    if not os.path.lexists(place):
        return None
    return place.is_file() and digests.measure(place).digest == digest


def _exist(folder: Path, places: Sequence[Path]) -> AlreadyExists:
    named = ", ".join(sorted(place.relative_to(folder).as_posix() for place in places)[:_MOST_NAMED])
    more = f" and {len(places) - _MOST_NAMED} more" if len(places) > _MOST_NAMED else ""
    return AlreadyExists(
        f"{folder} has other content in {named}{more}; choose another folder, or replace it (--force)",
        reason="FILE_EXISTS",
        metadata={"folder": str(folder)},
    )


def _spread(copies: list[tuple[Path, bool]], kept: Container[Path]) -> None:
    """Put the first file to the other places too, unless it is there, and set who may execute it."""
    first, _ = copies[0]
    for place, executable in copies:
        if place != first and place not in kept:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.unlink(missing_ok=True)
            shutil.copyfile(first, place)
        if executable:
            place.chmod(place.stat().st_mode | 0o111)
