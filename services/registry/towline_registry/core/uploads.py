"""What an upload says of itself, checked."""

from dataclasses import dataclass
from uuid import UUID

from towline.errors import FailedPrecondition, InvalidArgument, Unavailable
from towline.v1.artifacts_pb2 import UploadHeader
from towline_registry.core import digests

__all__ = ["Upload", "UploadKey", "digest_mismatch", "in_progress", "offset_mismatch"]


@dataclass(frozen=True)
class UploadKey:
    """Which upload: an id chosen by the client, and the digest it is to have."""

    upload_id: UUID
    digest: digests.Digest

    @classmethod
    def checked(cls, upload_id: str, digest: str, within: str = "") -> "UploadKey":
        """Check both as they came; InvalidArgument names the field, below the message `within`."""
        try:
            identity = UUID(upload_id)
        except ValueError:
            raise InvalidArgument.field(f"{within}upload_id", f"{upload_id[:80]!r} is not a UUID") from None
        return cls(identity, digests.checked(digest, f"{within}digest"))


@dataclass(frozen=True)
class Upload:
    """One stream of an upload.

    Args:
        key: Which upload.
        size_bytes: Size of the whole blob.
        offset: Where the stream starts.
    """

    key: UploadKey
    size_bytes: int
    offset: int

    @classmethod
    def checked(cls, header: UploadHeader) -> "Upload":
        """Check a header; InvalidArgument names the field."""
        key = UploadKey.checked(header.upload_id, header.digest, within="header.")
        if not 0 <= header.size_bytes <= digests.MAX_BLOB_BYTES:
            raise InvalidArgument.field("header.size_bytes", f"{header.size_bytes} is not within 0 to 1 TiB")
        if not 0 <= header.offset <= header.size_bytes:
            raise InvalidArgument.field("header.offset", f"{header.offset} is not within 0 to size_bytes")
        return cls(key, header.size_bytes, header.offset)


def offset_mismatch(upload: Upload, committed: int) -> FailedPrecondition:
    """Say that a stream does not start where its upload stands."""
    return FailedPrecondition(
        f"header.offset: the upload stands at {committed}, not at {upload.offset}; go on from there",
        reason="UPLOAD_OFFSET_MISMATCH",
        metadata={"field": "header.offset", "committed_size": str(committed)},
    )


def digest_mismatch(upload: Upload, actual: digests.Digest) -> InvalidArgument:
    """Say that what came is not what was announced; it was dropped."""
    return InvalidArgument(
        f"header.digest: the bytes have {actual}, not {upload.key.digest}; they were dropped, "
        "send the blob again from its start",
        reason="DIGEST_MISMATCH",
        metadata={"field": "header.digest", "expected": upload.key.digest, "actual": actual},
    )


def in_progress(key: UploadKey) -> Unavailable:
    """Say that another stream of the same upload has not ended."""
    return Unavailable(
        f"header.upload_id: another stream of upload {key.upload_id} has not ended; "
        "wait for it (a dead connection is noticed within half a minute), or take a new upload_id",
        reason="UPLOAD_IN_PROGRESS",
        metadata={"field": "header.upload_id"},
    )
