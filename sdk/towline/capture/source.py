"""Snapshots of source trees."""

import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, Final

from towline.capture import git
from towline.capture.git import Checkout
from towline.capture.tree import Entry, list_tree
from towline.errors import FailedPrecondition

__all__ = ["Snapshot", "take_snapshot"]

# Files up to this size are read whole, so that one that changes meanwhile is still one piece.
_WHOLE: Final = 8 * 1024 * 1024


@dataclass(frozen=True)
class Snapshot:
    """A source tree as one archive."""

    root: Path
    archive: Path
    """Uncompressed tar, in a temporary file; whoever took the snapshot removes it."""
    size_bytes: int
    """Size of the archive."""
    paths: frozenset[str]
    """What is in it, relative to the root."""
    left_out: Mapping[str, str]
    """Files that people would look for in it, and why they are not."""
    checkout: Checkout
    """Where the checkout stood; empty outside git."""
    warnings: tuple[str, ...]
    """Lines for people."""


def take_snapshot(root: Path, *, checkout: bool, excluded: Sequence[Path] = ()) -> Snapshot:
    """Archive a source tree as it is now: equal trees give equal bytes.

    Members are in the order of their paths, owned by nobody, from the year 1970, with mode 644 or 755.
    See `list_tree` for the arguments, and for what is left out.

    Raises:
        FailedPrecondition: It is too large (SOURCE_TOO_LARGE), or changes while it is read (SOURCE_CHANGED).
        OSError: A file cannot be read, or the temporary file cannot be written.
    """
    tree = list_tree(root, checkout=checkout, excluded=excluded)
    state = git.provenance(root) if checkout else Checkout()
    taken: set[str] = set()
    with tempfile.NamedTemporaryFile(prefix="towline-source-", suffix=".tar", delete=False) as file:
        archive = Path(file.name)
        try:
            with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
                for entry in tree.entries:
                    if _add(tar, root, entry):
                        taken.add(entry.path)
        except BaseException:
            archive.unlink()
            raise
    return Snapshot(
        root,
        archive,
        archive.stat().st_size,
        paths=frozenset(taken),
        left_out=tree.left_out,
        checkout=state,
        warnings=tuple(tree.warnings),
    )


def _add(tar: tarfile.TarFile, root: Path, entry: Entry) -> bool:
    """Add one entry; False if it was deleted meanwhile."""
    member = tarfile.TarInfo(entry.path)
    member.mode = 0o755 if entry.executable else 0o644
    if entry.target:
        member.type, member.linkname = tarfile.SYMTYPE, entry.target
        tar.addfile(member)
        return True
    try:
        with (root / entry.path).open("rb") as file:
            _add_file(tar, member, file, entry.size_bytes)
    except FileNotFoundError:
        return False
    return True


def _add_file(tar: tarfile.TarFile, member: tarfile.TarInfo, file: BinaryIO, size_bytes: int) -> None:
    content = file
    if size_bytes <= _WHOLE:
        data = file.read(_WHOLE)
        content, size_bytes = BytesIO(data), len(data)
    member.size = size_bytes
    try:
        tar.addfile(member, content)
    except OSError as error:
        if error.errno is not None:  # a real one; tarfile's own says that the file is shorter than it was
            raise
        raise FailedPrecondition(
            f"{member.name} changed while the snapshot was taken; leave it out with .towlineignore if it is "
            "no source",
            reason="SOURCE_CHANGED",
        ) from error
