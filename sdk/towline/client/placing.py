"""Where the files of an artifact version go, and what is there already. Everything here blocks."""

import os
import shutil
import stat
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Final, NamedTuple

from towline.client import digests
from towline.errors import AlreadyExists, FailedPrecondition, InvalidArgument
from towline.v1.artifacts_pb2 import ArtifactFile

__all__ = ["Place", "copy", "exist", "mark", "partial_of", "places_below", "put_in_place", "stands", "write"]

# In an error, so that it stays readable.
_MOST_NAMED: Final = 5


class Place(NamedTuple):
    """Where one file goes."""

    path: Path
    executable: bool


def places_below(folder: Path, files: Iterable[ArtifactFile]) -> dict[str, list[Place]]:
    """Give the places of a manifest's files below a folder, by digest; the folder is made.

    Raises:
        InvalidArgument: A path leaves the folder.
        FailedPrecondition: A link that is there already leads out of it; reason PATH_LEAVES_FOLDER.
    """
    folder.mkdir(parents=True, exist_ok=True)
    root = folder.resolve()

    @cache
    def stays(parent: Path) -> bool:
        return parent.resolve().is_relative_to(root)

    places: dict[str, list[Place]] = {}
    for file in files:
        pure = PurePosixPath(file.path)
        if not file.path or pure.is_absolute() or ".." in pure.parts or "\0" in file.path:
            raise InvalidArgument.field("files", f"the manifest's path {file.path!r} leaves the folder")
        path = folder / pure
        if not stays(path.parent):
            raise FailedPrecondition(
                f"{path.parent} is a link that leads out of {folder}; remove it or choose another folder",
                reason="PATH_LEAVES_FOLDER",
            )
        places.setdefault(file.digest, []).append(Place(path, file.executable))
    return places


def stands(place: Place, digest: str, size_bytes: int) -> bool | None:
    """Say whether a file with some content is in a place; None: nothing is there."""
    try:
        status = place.path.lstat()
        if stat.S_ISLNK(status.st_mode):
            status = place.path.stat()
    except FileNotFoundError:
        return False if place.path.is_symlink() else None
    except NotADirectoryError:  # what should be a folder is a file
        return None
    if not stat.S_ISREG(status.st_mode) or status.st_size != size_bytes:
        return False
    return digests.measure(place.path).digest == digest


def write(places: Sequence[Place], digest: str, data: bytes) -> None:
    """Write a whole file to its places; each has all of it or what it had before."""
    for place in places:
        place.path.parent.mkdir(parents=True, exist_ok=True)
        partial = partial_of(place.path, digest)
        # Not truncated: another download may just have written the same bytes to it, and put it in place.
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT, 0o666), "wb", buffering=0) as file:
            view = memoryview(data)
            while view:
                view = view[file.write(view) :]
            file.truncate(len(data))
            if place.executable:
                _mark(file.fileno(), executable=True)
        put_in_place(partial, place.path, digest)


def copy(places: Sequence[Place], digest: str) -> int:
    """Copy a file from its first place to the others, set who may execute it, and give its size in bytes."""
    first, *others = places
    _mark(first.path, executable=first.executable)
    for place in others:
        place.path.parent.mkdir(parents=True, exist_ok=True)
        partial = partial_of(place.path, digest)
        shutil.copyfile(first.path, partial)
        _mark(partial, executable=place.executable)
        put_in_place(partial, place.path, digest)
    return first.path.stat().st_size


def mark(places: Iterable[Place]) -> None:
    """Set who may execute files that are in their places."""
    for place in places:
        _mark(place.path, executable=place.executable)


def partial_of(path: Path, digest: str) -> Path:
    """Give the name of a file that is not whole yet: the same for each download of this content."""
    return path.with_name(f".{digest.removeprefix(digests.PREFIX)[:16]}.partial")


def put_in_place(partial: Path, to: Path, digest: str) -> None:
    """Give a whole file its name."""
    try:
        partial.replace(to)
    except FileNotFoundError:  # another download of the same blob to the same place has just done so
        if digests.measure(to).digest != digest:
            raise


def exist(folder: Path, places: Iterable[Place]) -> AlreadyExists:
    """Say that files are there with other content."""
    found = sorted(place.path.relative_to(folder).as_posix() for place in places)
    named = ", ".join(found[:_MOST_NAMED])
    more = f" and {len(found) - _MOST_NAMED} more" if len(found) > _MOST_NAMED else ""
    return AlreadyExists(
        f"{folder} has other content in {named}{more}; choose another folder, or replace it (--force)",
        reason="FILE_EXISTS",
        metadata={"folder": str(folder)},
    )


def _mark(file: Path | int, *, executable: bool) -> None:
    mode = stat.S_IMODE(os.stat(file).st_mode)  # noqa: PTH116 - a descriptor too
    # Whoever may read it may execute it.
    wanted = mode | (mode & 0o444) >> 2 if executable else mode & ~0o111
    if wanted != mode:
        os.chmod(file, wanted)  # noqa: PTH101 - likewise
