"""The files of a source tree."""

import os
import stat
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from towline.capture import git, sizes
from towline.capture.ignore import IGNORE_FILE, Rules, Verdict, is_environment_marker
from towline.capture.submodules import Listing, list_checkout
from towline.errors import FailedPrecondition
from towline.runtime.endpoints import data_dir

__all__ = ["Entry", "Tree", "is_data_folder", "list_tree"]

_NAMED: Final = 5


@dataclass(frozen=True)
class Entry:
    """One file or symbolic link."""

    path: str
    """Relative, "/"-separated; bytes that are no UTF-8 are surrogates."""
    place: Path
    """Where it is now."""
    size_bytes: int = 0
    stored_bytes: int = 0
    """How much of it is no hole."""
    target: str = ""
    """What it points at; empty: a file."""


@dataclass
class Tree:
    """The files of a source tree, and what people should know about it."""

    entries: list[Entry] = field(default_factory=list)
    """By path."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Files that people would look for in it, and why they are not."""
    warnings: list[str] = field(default_factory=list)

    def leave_out(self, paths: Sequence[str], why: str, warning: str) -> None:
        """Note paths that are not in it, with a warning that ends with their names."""
        self.left_out |= dict.fromkeys(paths, why)
        self.warn(warning, paths)

    def warn(self, problem: str, paths: Sequence[str]) -> None:
        """Add a warning about some paths; none if there are none."""
        if paths:
            self.warnings.append(f"{problem}: {_named(paths)}")

    def graft(self, folder: str, other: "Tree", place: Path) -> None:
        """Put another tree into a folder of this one, in place of what is there.

        Args:
            folder: Relative, "/"-separated.
            other: The tree.
            place: Where it is now, for people.
        """
        above = {folder[:end] for end, letter in enumerate(folder) if letter == "/"} | {folder}
        self.entries = [
            entry
            for entry in self.entries
            if entry.path not in above and not entry.path.startswith(f"{folder}/")
        ]
        self.entries += [replace(entry, path=f"{folder}/{entry.path}") for entry in other.entries]
        self.entries.sort(key=lambda entry: entry.path)
        self.left_out |= {f"{folder}/{path}": why for path, why in other.left_out.items()}
        self.warnings += [f"{place}: {warning}" for warning in other.warnings]


def list_tree(root: Path, *, checkout: bool, excluded: Sequence[Path] = ()) -> Tree:
    """List what belongs to a source tree; a folder that Towline's services keep their data in never does.

    What git cannot list is taken as it is on disk, with a warning.

    Args:
        root: Its folder.
        checkout: Whether git is to list it; else every file on disk is taken that no .gitignore names.
        excluded: Folders in it that are no source.

    Raises:
        FailedPrecondition: It has more than a million files (SOURCE_TOO_LARGE), or a submodule contains
            itself (CYCLIC_SUBMODULE).
    """
    tree = Tree()
    secrets, leaving = [], []
    walk = _Walk(root, {_relative(root, path) for path in (*excluded, data_dir())} - {None, "."})
    paths, rules = _source_paths(tree, walk, checkout=checkout)
    folders = _RealFolders(root)
    for path in sorted(paths):
        verdict = rules.file(path)
        if verdict is Verdict.LOOKS_SECRET:
            secrets.append(path)
        if verdict is not Verdict.KEPT or not folders.hold(path):
            continue
        entry = _entry(root, path)
        if entry is None:
            tree.left_out[path] = "it is not there any more, or neither file nor link"
        elif entry.target and not _stays(root, entry):
            leaving.append(path)
        else:
            tree.entries.append(entry)
    tree.leave_out(
        secrets,
        f"it looks like a secret; keep it with a line !NAME in {IGNORE_FILE}",
        f"left out what looks like a secret (keep a file with a line such as !NAME in {IGNORE_FILE})",
    )
    tree.leave_out(
        leaving,
        "it is a link that leads out of the source tree; copy the file there",
        "left out symbolic links that lead out of the source tree",
    )
    tree.leave_out(walk.unreadable, "it cannot be read", "left out folders that cannot be read")
    if large := sizes.notice([(entry.path, entry.size_bytes) for entry in tree.entries]):
        tree.warnings.append(large)
    return tree


def is_data_folder(folder: Path) -> bool:
    """Say whether Towline's services keep their data in a folder: `towline up` made it, or it is named so."""
    made = (folder / "state.json").is_file() and (folder / "postgres").is_dir()
    return made or folder.resolve() == data_dir().resolve()


class _Walk:
    """Lists folders as they are on disk.

    Args:
        root: The source tree.
        without: Folders that are no source, relative to it.
    """

    def __init__(self, root: Path, without: Set[str | None]) -> None:
        self.root = root
        self.without = frozenset(folder for folder in without if folder is not None)
        self.rules = Rules(self.lines, gitignore=True)
        self.unreadable: list[str] = []

    def lines(self, path: str) -> Sequence[str]:
        """Read an ignore file; none if there is none that can be read."""
        file = self.root / path
        try:
            if file.is_file():  # a pipe would not end
                return file.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
        except OSError:
            pass
        return ()

    def files(self, top: str) -> Iterator[str]:
        """Give the paths below a folder that the rules do not leave out."""
        waiting = [top]
        while waiting:
            folder = waiting.pop()
            try:
                items = list(os.scandir(self.root / folder))
            except FileNotFoundError:
                continue
            except OSError:
                self.unreadable.append(folder)
                continue
            names = {item.name for item in items}
            if folder and (
                "pyvenv.cfg" in names or "conda-meta" in names or {"state.json", "postgres"} <= names
            ):
                continue
            for item in items:
                path = f"{folder}/{item.name}" if folder else item.name
                if item.is_dir(follow_symlinks=False):
                    if path not in self.without and not self.rules.folder(path):
                        waiting.append(path)
                elif self.rules.file(path) is not Verdict.LEFT_OUT:
                    yield path


def _source_paths(tree: Tree, walk: _Walk, *, checkout: bool) -> tuple[list[str], Rules]:
    rules = Rules(walk.lines)
    listing = Listing()
    if checkout:
        try:
            listing = list_checkout(walk.root, lambda folder: folder in walk.without or rules.folder(folder))
        except FailedPrecondition as error:
            if error.reason != "GIT_FAILED":
                raise
            listing.unlisted[""] = error.message
    elif (around := git.repository_around(walk.root)) and (trouble := git.trouble_with(around)):
        listing.unlisted[""] = trouble
    paths = listing.paths
    walk.unreadable += listing.unreadable
    tree.warnings += [
        f"{walk.root / folder} is taken as it is on disk, but for what .gitignore names: {trouble}"
        for folder, trouble in listing.unlisted.items()
    ]
    tree.warn("empty, as these submodules are not checked out (git submodule update --init)", listing.empty)
    if listing.sparse:
        tree.warnings.append(
            f"without {listing.sparse:,} files of the commit that are not here (git sparse-checkout list)"
        )
    for folder in listing.unlisted if checkout else ("",):
        paths += sizes.bounded(walk.files(folder), walk.root)
    foreign = {is_environment_marker(path) for path in paths} | {
        _data_folder(walk.root, path) for path in paths
    }
    inside = tuple(f"{folder}/" for folder in foreign | walk.without if folder)
    return [path for path in paths if not f"{path}/".startswith(inside)], rules


def _data_folder(root: Path, path: str) -> str | None:
    folder, _, name = path.rpartition("/")
    return folder if name == "state.json" and is_data_folder(root / folder) else None


class _RealFolders:
    """Tells whether a path's folders are folders, and none a link in place of one that git still lists."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._known = {"": True}

    def hold(self, path: str) -> bool:
        folders = []
        while (path := path.rpartition("/")[0]) not in self._known:
            folders.append(path)
        real = self._known[path]
        for folder in reversed(folders):
            real = real and not (self._root / folder).is_symlink()
            self._known[folder] = real
        return real


def _entry(root: Path, path: str) -> Entry | None:
    """Look at one path; None for what is not there any more and what is neither file nor link."""
    place = root / path
    try:
        status = place.lstat()
        if stat.S_ISLNK(status.st_mode):
            return Entry(path, place, target=_portable(root, path, os.fspath(place.readlink())))
    except OSError:  # deleted, not yet committed
        return None
    if not stat.S_ISREG(status.st_mode):
        return None
    return Entry(path, place, status.st_size, min(status.st_size, status.st_blocks * 512))


def _portable(root: Path, path: str, target: str) -> str:
    """Make a link relative that names a place in the tree from "/" on: elsewhere the tree is elsewhere."""
    written = os.path.normpath(target)
    for top in (os.path.normpath(root), os.path.realpath(root)):
        if target.startswith("/") and f"{written}/".startswith(f"{top}/"):
            return os.path.relpath(f"/{written[len(top) :]}", f"/{path.rpartition('/')[0]}")
    return target


def _stays(root: Path, link: Entry) -> bool:
    """Say whether a link stays in the tree, as it is written and as it is followed."""
    written = os.path.normpath(os.path.join(os.path.dirname(link.path), link.target))  # noqa: PTH118, PTH120 - text only
    outside = written == ".." or written.startswith(("../", "/"))
    followed = os.path.realpath(link.place)  # never raises, as resolve() does for a loop
    return not outside and Path(followed).is_relative_to(os.path.realpath(root))


def _relative(root: Path, path: Path) -> str | None:
    try:
        return path.resolve().relative_to(root.resolve()).as_posix()
    except ValueError:
        return None


def _named(paths: Sequence[str]) -> str:
    named = ", ".join(os.fsencode(path).decode(errors="replace") for path in paths[:_NAMED])
    return named + (f" and {len(paths) - _NAMED} more" if len(paths) > _NAMED else "")
