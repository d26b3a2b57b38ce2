"""Small blobs that come and go many in one message: bounds, checks, groups."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from towline.errors import InvalidArgument
from towline.v1.artifacts_pb2 import WholeBlob
from towline_registry.core import digests

__all__ = ["checked_contents", "checked_digests", "grouped", "verify"]

MOST_BLOBS: Final = 1000
MOST_BLOB_BYTES: Final = 1024 * 1024
MOST_MESSAGE_BYTES: Final = 2 * 1024 * 1024


def checked_contents(blobs: Iterable[WholeBlob]) -> dict[digests.Digest, bytes]:
    """Check the blobs of a message but for what their bytes have as digests.

    Raises:
        InvalidArgument: Too many, too large ones, or a name that is no digest; names `blobs`.
    """
    contents: dict[digests.Digest, bytes] = {}
    count = size_bytes = 0
    for blob in blobs:
        digest = digests.checked(blob.digest, "blobs.digest")
        if len(blob.data) > MOST_BLOB_BYTES:
            raise InvalidArgument.field(
                "blobs.data", f"{digest} has more than {MOST_BLOB_BYTES} bytes; send it with UploadBlob"
            )
        count += 1
        size_bytes += len(blob.data)
        contents[digest] = blob.data
    if count > MOST_BLOBS or size_bytes > MOST_MESSAGE_BYTES:
        raise InvalidArgument.field(
            "blobs",
            f"a message has at most {MOST_BLOBS} blobs and {MOST_MESSAGE_BYTES} bytes; send more of them",
        )
    return contents


def checked_digests(texts: Iterable[str]) -> list[digests.Digest]:
    """Check which blobs are asked for; InvalidArgument names `digests`."""
    asked = [digests.checked(text, "digests") for text in texts]
    if len(asked) > MOST_BLOBS:
        raise InvalidArgument.field("digests", f"at most {MOST_BLOBS} are taken; ask in several calls")
    return asked


def verify(contents: Mapping[digests.Digest, bytes]) -> None:
    """Check that bytes have the digests that they should.

    Raises:
        InvalidArgument: Some have another; reason DIGEST_MISMATCH.
    """
    for digest, data in contents.items():
        if (actual := digests.of(data)) != digest:
            raise InvalidArgument(
                f"blobs.data: the bytes have {actual}, not {digest}; nothing of this message was kept",
                reason="DIGEST_MISMATCH",
                metadata={"field": "blobs.data", "expected": digest, "actual": actual},
            )


def grouped(blobs: Iterable[tuple[digests.Digest, int]]) -> Iterator[list[digests.Digest]]:
    """Cut blobs of known sizes into groups that fit a message, in their order.

    Raises:
        InvalidArgument: One is too large for a message; names `digests`.
    """
    group: list[digests.Digest] = []
    left = MOST_MESSAGE_BYTES
    for digest, size_bytes in blobs:
        if size_bytes > MOST_BLOB_BYTES:
            raise InvalidArgument.field(
                "digests", f"{digest} has more than {MOST_BLOB_BYTES} bytes; get it with DownloadBlob"
            )
        if size_bytes > left:
            yield group
            group, left = [], MOST_MESSAGE_BYTES
        group.append(digest)
        left -= size_bytes
    if group:
        yield group
