"""Single files of a source tree that lies in an archive."""

import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Final

from towline.errors import InvalidArgument, NotFound

__all__ = ["FOLDER", "reading"]

FOLDER: Final = "workspace"
"""Where a source tree lies in its archive."""
_MOST_BYTES: Final = 64 * 1024**2


@contextmanager
def reading(archive: Path) -> Iterator[Callable[[str], bytes]]:
    """Give what reads a file by its path in the source tree, from an archive that `Sources` gives.

    It raises NotFound where the tree has no such file, and InvalidArgument for one of more than 64 MiB.
    """
    with tarfile.open(archive, mode="r:") as tar:

        def read(path: str) -> bytes:
            try:
                member = tar.getmember(str(PurePosixPath(FOLDER, path)))
                content = tar.extractfile(member)  # follows links within the archive
            except KeyError:
                content = None
            if content is None:
                raise NotFound(
                    f"the source tree has no file {path}; record the job again",
                    reason="SOURCE_FILE_NOT_FOUND",
                )
            with content:
                data = content.read(_MOST_BYTES + 1)
            if len(data) > _MOST_BYTES:
                raise InvalidArgument(f"{path} is too large for a lock", reason="INVALID_LOCK")
            return data

        yield read
