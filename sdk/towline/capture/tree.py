"""The files of a source tree."""

import os
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from towline.capture import git
from towline.capture.ignore import IGNORE_FILE, Rules, Verdict, is_environment_marker
from towline.errors import FailedPrecondition
from towline.runtime.endpoints import data_dir

__all__ = ["Entry", "Tree", "is_data_folder", "list_tree"]

MOST_BYTES: Final = 1024**3
MOST_FILES: Final = 100_000
# From here on people are told what is large.
MANY_BYTES: Final = 100 * 1024**2
MANY_FILES: Final = 10_000
_NAMED: Final = 5


@dataclass(frozen=True)
class Entry:
    """One file or symbolic link."""

    path: str
    """Relative, "/"-separated."""
    size_bytes: int
    executable: bool = False
    target: str = ""
    """What it points at; empty: a file."""


@dataclass
class Tree:
    """The files of a source tree, by path, and what people should know about it."""

    root: Path
    entries: list[Entry] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    """Files that people would look for in it, and why they are not."""
    warnings: list[str] = field(default_factory=list)


def list_tree(root: Path, *, checkout: bool, excluded: Sequence[Path] = ()) -> Tree:
    """List what belongs to a source tree; a folder that Towline's services keep their data in never does.

    Args:
        root: Its folder.
        checkout: Whether it is the root of a git checkout; its .gitignore files count then.
        excluded: Folders in it that are no source.

    Raises:
        FailedPrecondition: It is larger than 1 GiB or has more than 100,000 files; reason SOURCE_TOO_LARGE.
    """
    rules = Rules(_ignore_lines(root))
    without = {_relative(root, path) for path in (*excluded, data_dir())} - {None, "."}
    tree = Tree(root)
    secrets, unreadable, leaving = [], [], []
    for path in sorted(_source_paths(root, rules, without, checkout=checkout)):
        verdict = rules.file(path)
        if verdict is Verdict.LOOKS_SECRET:
            secrets.append(path)
        if verdict is not Verdict.KEPT:
            continue
        try:
            path.encode()
            entry = _entry(root, path)
        except UnicodeEncodeError:
            unreadable.append(path)
            continue
        if entry is None:
            continue
        if entry.target and not _stays(root, entry):
            leaving.append(path)
            continue
        tree.entries.append(entry)
    _check_size(tree.entries)
    tree.left_out |= dict.fromkeys(
        secrets, f"it looks like a secret; keep it with a line !NAME in {IGNORE_FILE}"
    )
    tree.left_out |= dict.fromkeys(unreadable, "its name is not UTF-8")
    tree.left_out |= dict.fromkeys(
        leaving, "it is a link that leads out of the source tree; copy the file there"
    )
    if large := _large(tree.entries):
        tree.warnings.append(large)
    _warn(
        tree,
        f"left out what looks like a secret (keep a file with a line such as !NAME in {IGNORE_FILE})",
        secrets,
    )
    _warn(tree, "left out files whose names are not UTF-8", unreadable)
    _warn(tree, "left out symbolic links that lead out of the source tree", leaving)
    return tree


def is_data_folder(folder: Path) -> bool:
    """Say whether Towline's services keep their data in a folder: `towline up` made it, or it is named so."""
    made = (folder / "state.json").is_file() and (folder / "postgres").is_dir()
    return made or folder.resolve() == data_dir().resolve()


def _source_paths(root: Path, rules: Rules, without: Set[str | None], *, checkout: bool) -> list[str]:
    def skipped(folder: str) -> bool:
        return folder in without or rules.folder(folder)

    if checkout:
        paths = [os.fsdecode(name) for name in git.list_files(root)]
    else:
        paths = list(_bounded(_walk(root, "", skipped), root))
    foreign = {folder for path in paths if (folder := is_environment_marker(path))}
    foreign |= {folder for path in paths if (folder := _data_folder(root, path))}
    foreign |= {folder for folder in without if folder is not None}
    return [path for path in paths if not any(f"{path}/".startswith(f"{folder}/") for folder in foreign)]


def _data_folder(root: Path, path: str) -> str | None:
    folder, _, name = path.rpartition("/")
    return folder if name == "state.json" and is_data_folder(root / folder) else None


def _walk(root: Path, folder: str, skipped: Callable[[str], bool]) -> Iterator[str]:
    """List a plain folder; folders that cannot be read are passed over."""
    try:
        items = list(os.scandir(root / folder))
    except PermissionError:
        return
    names = {item.name for item in items}
    if folder and ("pyvenv.cfg" in names or "conda-meta" in names or {"state.json", "postgres"} <= names):
        return
    for item in items:
        path = f"{folder}/{item.name}" if folder else item.name
        if not item.is_dir(follow_symlinks=False):
            yield path
        elif not skipped(path):
            yield from _walk(root, path, skipped)


def _bounded(paths: Iterable[str], root: Path) -> Iterator[str]:
    """Stop before a whole disk is listed because a script lies in its top folder."""
    for count, path in enumerate(paths):
        if count == MOST_FILES:
            raise FailedPrecondition(
                f"{root} has more than {MOST_FILES:,} files; put the script into a folder of its own, make "
                f"that a git repository, or leave folders out with {IGNORE_FILE}",
                reason="SOURCE_TOO_LARGE",
            )
        yield path


def _entry(root: Path, path: str) -> Entry | None:
    """Look at one path; None for what is not there any more and what is neither file nor link."""
    place = root / path
    try:
        status = place.lstat()
    except (FileNotFoundError, NotADirectoryError):  # deleted, not yet committed
        return None
    if stat.S_ISLNK(status.st_mode):
        return Entry(path, 0, target=os.fspath(place.readlink()))
    if not stat.S_ISREG(status.st_mode):
        return None
    return Entry(path, status.st_size, executable=bool(status.st_mode & stat.S_IXUSR))


def _stays(root: Path, link: Entry) -> bool:
    """Say whether a link stays in the tree, as it is written and as it is followed."""
    written = os.path.normpath(os.path.join(os.path.dirname(link.path), link.target))  # noqa: PTH118, PTH120 - text only
    outside = written == ".." or written.startswith(("../", "/"))
    return not outside and (root / link.path).resolve().is_relative_to(root.resolve())


def _check_size(entries: Sequence[Entry]) -> None:
    total = sum(entry.size_bytes for entry in entries)
    if total <= MOST_BYTES and len(entries) <= MOST_FILES:
        return
    largest = sorted(entries, key=lambda entry: entry.size_bytes, reverse=True)[:_NAMED]
    named = ", ".join(f"{entry.path} ({entry.size_bytes / 1024**2:.0f} MiB)" for entry in largest)
    raise FailedPrecondition(
        f"the source tree has {total / 1024**2:.0f} MiB in {len(entries):,} files; at most 1024 MiB in "
        f"{MOST_FILES:,} files are recorded. The largest are {named}; leave out what is no source with "
        f"{IGNORE_FILE}",
        reason="SOURCE_TOO_LARGE",
    )


def _large(entries: Sequence[Entry]) -> str | None:
    """Tell people of a large tree, and where most of it lies."""
    total = sum(entry.size_bytes for entry in entries)
    if total <= MANY_BYTES and len(entries) <= MANY_FILES:
        return None
    sizes, counts = Counter[str](), Counter[str]()
    for entry in entries:
        top, inside, _ = entry.path.partition("/")
        sizes[top + inside] += entry.size_bytes
        counts[top + inside] += 1
    ((most, _),) = (sizes if total > MANY_BYTES else counts).most_common(1)
    return (
        f"the snapshot is large: {total / 1024**2:,.0f} MiB in {len(entries):,} files, most of it in {most} "
        f"({sizes[most] / 1024**2:,.0f} MiB in {counts[most]:,} files); leave out what is no source with "
        f"{IGNORE_FILE}"
    )


def _ignore_lines(root: Path) -> list[str]:
    try:
        return (root / IGNORE_FILE).read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []


def _relative(root: Path, path: Path) -> str | None:
    try:
        return path.resolve().relative_to(root.resolve()).as_posix()
    except ValueError:
        return None


def _warn(tree: Tree, problem: str, paths: list[str]) -> None:
    if paths:
        named = ", ".join(path.encode(errors="replace").decode() for path in paths[:_NAMED])
        more = f" and {len(paths) - _NAMED} more" if len(paths) > _NAMED else ""
        tree.warnings.append(f"{problem}: {named}{more}")
