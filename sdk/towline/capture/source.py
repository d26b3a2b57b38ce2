"""Snapshots of source trees."""

import errno
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import IO, Final

from towline.capture import git, sizes
from towline.capture.archive import Archive, Outcome
from towline.capture.git import Checkout
from towline.capture.ignore import IGNORE_FILE
from towline.capture.tree import Entry, Tree, list_tree
from towline.errors import FailedPrecondition

__all__ = ["Snapshot", "take_snapshot"]

# Of an archive: header and padding of a member, and what else goes onto a disk meanwhile.
_MEMBER_BYTES: Final = 1536
_SPARE_BYTES: Final = 16 * 1024**2


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


def take_snapshot(
    root: Path,
    *,
    checkout: bool,
    excluded: Sequence[Path] = (),
    extra: Mapping[str, Path] = MappingProxyType({}),
) -> Snapshot:
    """Archive a source tree as it is now: equal trees give equal bytes.

    A file that cannot be read, or does not hold still, is left out with a warning.

    Args:
        root: See `list_tree`, as for `checkout` and `excluded`.
        checkout: See there.
        excluded: See there.
        extra: Further folders, each with the path it gets in the archive, relative and "/"-separated; it goes
            over what the tree has there. The same is left out of them, by their own ignore files.

    Raises:
        FailedPrecondition: See `list_tree`; or it is larger than agents take (SOURCE_TOO_LARGE), or than the
            disk for temporary files has room for (NO_SPACE).
        OSError: The temporary file cannot be written.
    """
    tree = list_tree(root, checkout=checkout, excluded=excluded)
    for path, folder in extra.items():
        tree.graft(path, _list_extra(folder, excluded), folder)
    sizes.check([(entry.path, entry.size_bytes) for entry in tree.entries])
    _check_space(tree.entries)
    with tempfile.NamedTemporaryFile(prefix="towline-source-", suffix=".tar", delete=False) as file:
        archive = Path(file.name)
        try:
            taken, size_bytes = _write(tree, file)
        except BaseException as error:
            archive.unlink()
            if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                raise _no_space(tree.entries) from error
            raise
    # Last, for it takes its time, in which the tree may change.
    state = git.provenance(root) if checkout else Checkout()
    return Snapshot(
        root,
        archive,
        size_bytes,
        paths=taken,
        left_out=tree.left_out,
        checkout=state,
        warnings=tuple(tree.warnings),
    )


def _write(tree: Tree, target: IO[bytes]) -> tuple[frozenset[str], int]:
    """Write the archive; the tree gets what is to be said about it."""
    archive = Archive(target)
    found: dict[Outcome, list[str]] = {outcome: [] for outcome in Outcome}
    unreadable = []
    for entry in tree.entries:
        if entry.target:
            archive.add_link(entry.path, entry.target)
            found[Outcome.TAKEN].append(entry.path)
            continue
        try:
            found[archive.add_file(entry.path, entry.place)].append(entry.path)
        except OSError as error:
            if error.filename is None:  # the temporary file's
                raise
            unreadable.append(entry.path)
    tree.leave_out(unreadable, "it cannot be read", "left out files that cannot be read")
    tree.leave_out(found[Outcome.GONE], "it is not there any more", "left out files that went away meanwhile")
    tree.leave_out(
        found[Outcome.UNSTEADY],
        "it was written to each time it was read",
        "left out files that do not hold still",
    )
    tree.warn("written to while the snapshot was taken", found[Outcome.CHANGED])
    tree.warn(
        "pointers of Git LFS, not what they point at (git lfs pull brings that)", found[Outcome.POINTER]
    )
    taken = (Outcome.TAKEN, Outcome.POINTER, Outcome.CHANGED)
    return frozenset(path for outcome in taken for path in found[outcome]), archive.end()


def _list_extra(folder: Path, excluded: Sequence[Path]) -> Tree:
    if git.checkout_of(folder) and (tree := list_tree(folder, checkout=True, excluded=excluded)).entries:
        return tree
    # No checkout, or a folder of one that its .gitignore names.
    return list_tree(folder, checkout=False, excluded=excluded)


def _check_space(entries: Sequence[Entry]) -> None:
    if _needed(entries) + _SPARE_BYTES > shutil.disk_usage(tempfile.gettempdir()).free:
        raise _no_space(entries)


def _no_space(entries: Sequence[Entry]) -> FailedPrecondition:
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    return FailedPrecondition(
        f"the snapshot takes {_needed(entries) / 1024**2:,.0f} MiB in {folder}, which has room for "
        f"{free / 1024**2:,.0f} MiB; set TMPDIR to a folder with more, or leave out what is no source with "
        f"{IGNORE_FILE}",
        reason="NO_SPACE",
    )


def _needed(entries: Sequence[Entry]) -> int:
    return sum(entry.stored_bytes + _MEMBER_BYTES for entry in entries)
