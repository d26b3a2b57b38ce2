"""The context of a build with a Dockerfile: a copy of the source tree without what its ignore file lists."""

import hashlib
import tarfile
from collections.abc import Callable, Collection
from typing import IO, Final, cast

__all__ = ["copy_context"]

_NAMES: Final = "utf-8"
# The same for all, so that the same content is the same context; zip archives know no time before 1980.
_MODIFIED: Final = 946_684_800


def copy_context(
    source: IO[bytes], target: IO[bytes], folder: str, left_out: Callable[[str], bool], keep: Collection[str]
) -> str:
    """Write the tar archive that an engine builds from, and return its digest, "sha256:…".

    The digest depends on paths, modes, links and content, in the archive's order, and on nothing else.

    Args:
        source: A checked archive of the source tree, uncompressed; must be seekable.
        target: Gets the context.
        folder: Where the tree lies in it, such as "workspace".
        left_out: Tells whether a path of the tree is left out.
        keep: Paths that are not, whatever it tells: what the engine reads itself.
    """
    hashing = _Hashing(target)
    with (
        tarfile.open(fileobj=source, mode="r:", encoding=_NAMES) as archive,
        tarfile.open(
            fileobj=cast("IO[bytes]", hashing), mode="w|", format=tarfile.PAX_FORMAT, encoding=_NAMES
        ) as copy,
    ):
        for member in archive:
            path = member.name.removeprefix(f"{folder}/")
            if path == folder or (left_out(path) and path not in keep):
                continue
            if member.islnk():  # what it shares its bytes with may be left out
                copy.addfile(_made(path, archive.getmember(member.linkname)), archive.extractfile(member))
            else:
                copy.addfile(_made(path, member), archive.extractfile(member) if member.isreg() else None)
    return f"sha256:{hashing.sha256.hexdigest()}"


def _made(path: str, member: tarfile.TarInfo) -> tarfile.TarInfo:
    made = tarfile.TarInfo(path)
    made.type, made.mode, made.mtime = member.type, member.mode, _MODIFIED
    made.size, made.linkname = member.size, member.linkname
    return made


class _Hashing:
    """A file that hashes what is written to it."""

    def __init__(self, target: IO[bytes]) -> None:
        self._target = target
        self.sha256 = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.sha256.update(data)
        return self._target.write(data)
