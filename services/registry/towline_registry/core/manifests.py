"""What makes an artifact's content: its checks, its order, its digest."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from towline.errors import InvalidArgument
from towline.v1.artifacts_pb2 import ArtifactFile, ArtifactVersion
from towline_registry.core import digests, json_objects, texts

__all__ = ["Manifest", "checked", "checked_metadata", "checked_type"]

MAX_FILES: Final = 100_000
# GetArtifactVersion answers with the whole manifest in one message, which may have 16 MiB.
MAX_MANIFEST_BYTES: Final = 15 * 1024 * 1024

MAX_METADATA_BYTES: Final = 64 * 1024

_TYPE: Final = re.compile(r"[a-z][a-z0-9_-]{0,62}")


@dataclass(frozen=True)
class Manifest:
    """The files of an artifact version.

    Args:
        serialized: The files by path, as an ArtifactVersion with nothing else set.
        digest: Of `serialized`.
        blobs: Sizes in bytes by digest, each blob once.
        size_bytes: Sum of the files' sizes.
        file_count: Number of files.
    """

    serialized: bytes
    digest: digests.Digest
    blobs: dict[digests.Digest, int]
    size_bytes: int
    file_count: int


def checked_type(text: str) -> str:
    """Check the type of an artifact version; InvalidArgument names `type`."""
    if not _TYPE.fullmatch(text):
        raise InvalidArgument.field(
            "type", f'{text[:80]!r} is not a lower-case word of at most 63 characters, such as "outputs"'
        )
    return text


def checked_metadata(text: str) -> str:
    """Check what the maker says: empty or a JSON object; InvalidArgument names `metadata_json`."""
    if len(text.encode()) > MAX_METADATA_BYTES:
        raise InvalidArgument.field(
            "metadata_json",
            f"is larger than {MAX_METADATA_BYTES} bytes; put more into a file of the artifact",
        )
    if text:
        json_objects.read(text, "metadata_json")
    return text


def checked(files: Iterable[ArtifactFile]) -> Manifest:
    """Check the files of a request and put them in order.

    Raises:
        InvalidArgument: Too many files, a wrong path or digest, a path that comes twice or lies below
            another file, one blob with two sizes; names `files`.
    """
    ordered = sorted(files, key=lambda file: file.path)
    if len(ordered) > MAX_FILES:
        raise InvalidArgument.field("files", f"{len(ordered)} are too many; at most {MAX_FILES} are taken")
    paths: set[str] = set()
    blobs: dict[digests.Digest, int] = {}
    for file in ordered:
        texts.relative_path(file.path, "files.path")
        if file.path in paths:
            raise InvalidArgument.field("files.path", f"{file.path!r} comes twice")
        paths.add(file.path)
        digest = digests.checked(file.digest, "files.digest")
        if not 0 <= file.size_bytes <= digests.MAX_BLOB_BYTES:
            raise InvalidArgument.field("files.size_bytes", f"of {file.path!r} is not within 0 to 1 TiB")
        if blobs.setdefault(digest, file.size_bytes) != file.size_bytes:
            raise InvalidArgument.field("files.size_bytes", f"{digest} has two sizes; bytes have but one")
    _check_folders(paths)
    serialized = ArtifactVersion(files=ordered).SerializeToString(deterministic=True)
    if len(serialized) > MAX_MANIFEST_BYTES:
        raise InvalidArgument.field(
            "files",
            f"the manifest has {len(serialized)} bytes, at most {MAX_MANIFEST_BYTES}; pack the files first",
        )
    return Manifest(
        serialized=serialized,
        digest=digests.of(serialized),
        blobs=blobs,
        size_bytes=sum(file.size_bytes for file in ordered),
        file_count=len(ordered),
    )


def _check_folders(paths: set[str]) -> None:
    for path in paths:
        folder = path.rpartition("/")[0]
        while folder:
            if folder in paths:
                raise InvalidArgument.field("files.path", f"{folder!r} is a file, and {path!r} lies below it")
            folder = folder.rpartition("/")[0]
