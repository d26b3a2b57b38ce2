"""The files of a checkout and of the checkouts inside it, as git lists them."""

import os
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

from towline.capture import git
from towline.errors import FailedPrecondition

__all__ = ["Listing", "list_checkout"]

_DEEPEST: Final = 32
_TRACKED: Final = "H"
_SPARSE: Final = "S"
_UNREADABLE: Final = re.compile(r"^warning: could not open directory '(.+?)/?': ", re.MULTILINE)


@dataclass
class Listing:
    """What belongs to a checkout: tracked and untracked files, not those that .gitignore names.

    Paths are relative and "/"-separated; bytes that are no UTF-8 are surrogates.
    """

    paths: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)
    """Submodules that are not checked out."""
    sparse: int = 0
    """How many files of the commit a sparse checkout has left out."""
    unlisted: dict[str, str] = field(default_factory=dict)
    """Folders of repositories inside that git cannot read, and what it says."""
    unreadable: list[str] = field(default_factory=list)
    """Folders that git may not look into."""


def list_checkout(root: Path, skipped: Callable[[str], bool]) -> Listing:
    """List a checkout, or a folder of one, with the submodules and repositories in it.

    Args:
        root: Its folder.
        skipped: Says whether a repository inside is not to be looked into, by its path.

    Raises:
        FailedPrecondition: A submodule contains itself (CYCLIC_SUBMODULE), or git cannot list the files of
            the checkout itself (GIT_FAILED).
    """
    listing = Listing()
    _list(listing, root, (_Repository.at(root, ""),), skipped)
    listing.paths = list(dict.fromkeys(listing.paths))
    return listing


@dataclass(frozen=True)
class _Repository:
    """A repository with a working tree, as one of those that lie in each other."""

    path: str
    """Of its folder, relative to the root; empty: the root."""
    folder: tuple[int, int]
    """Device and inode of its folder."""
    git_dir: bytes
    url: str
    """Where it was cloned from; its own place where it was not."""
    declared: frozenset[str]
    """Where its submodules come from."""

    @classmethod
    def at(cls, root: Path, path: str) -> Self:
        """Look at the repository in a folder; FailedPrecondition, reason GIT_FAILED, if git cannot."""
        place = root / path
        status = place.stat()
        url = _told(place, "config", "remote.origin.url").strip() or os.fspath(place.resolve())
        listed = _told(
            place, "config", "--file", ".gitmodules", "-z", "--get-regexp", r"^submodule\..*\.url$"
        )
        urls = (item.partition("\n")[2] for item in listed.split("\0") if item)
        return cls(
            path,
            (status.st_dev, status.st_ino),
            git.ask(place, "rev-parse", "--absolute-git-dir"),
            _plain(url),
            frozenset(_resolved(each, url) for each in urls),
        )


def _list(
    listing: Listing, root: Path, chain: tuple[_Repository, ...], skipped: Callable[[str], bool]
) -> None:
    """Add the files of the last one of repositories that lie in each other."""
    folder = chain[-1].path
    prefix = f"{folder}/" if folder else ""
    listed = git.run(root / folder, "ls-files", "-t", "--cached", "--others", "--exclude-standard", "-z")
    listing.unreadable += [f"{prefix}{name}" for name in _UNREADABLE.findall(listed.complaints)]
    for line in os.fsdecode(listed.out).split("\0")[:-1]:
        tag, _, name = line.partition(" ")
        path = prefix + name.rstrip("/")
        place = root / path
        try:
            mode = place.lstat().st_mode
        except OSError:  # deleted, or never checked out
            listing.sparse += tag == _SPARSE
            continue
        if not stat.S_ISDIR(mode):
            if stat.S_ISLNK(mode) and tag == _TRACKED and not skipped(path):
                _check_link(root, chain[-1], path)
            listing.paths.append(path)
        elif git.looks_like_checkout(place):
            if not skipped(path):
                _enter(listing, root, chain, path, skipped)
        elif tag == _TRACKED and _is_empty(place):
            listing.empty.append(path)


def _enter(
    listing: Listing, root: Path, above: tuple[_Repository, ...], path: str, skipped: Callable[[str], bool]
) -> None:
    try:
        inner = _Repository.at(root, path)
        _check_cycle(above, inner)
        _list(listing, root, (*above, inner), skipped)
    except FailedPrecondition as error:
        if error.reason != "GIT_FAILED":
            raise
        listing.unlisted[path] = error.message


def _is_empty(folder: Path) -> bool:
    try:
        return not any(folder.iterdir())
    except OSError:
        return False


def _check_link(root: Path, repository: _Repository, path: str) -> None:
    """Refuse a submodule whose folder is a link to one that it lies in."""
    place = root / path
    target = Path(os.path.realpath(place))
    if not Path(os.path.realpath(place.parent)).is_relative_to(target):
        return
    name = path.removeprefix(f"{repository.path}/")
    listed = git.ask(root / repository.path, "ls-files", "--stage", "-z", "--", f":(literal){name}")
    if listed.startswith(b"160000 "):
        raise _cyclic(path, f"its folder is a link to {target}")


def _check_cycle(above: tuple[_Repository, ...], inner: _Repository) -> None:
    for outer in above:
        if outer.git_dir == inner.git_dir or outer.folder == inner.folder:
            raise _cyclic(inner.path, f"it is the repository {outer.path or 'around it'} itself")
    urls = {outer.url for outer in above}
    # A branch of a repository may be a submodule of another one, such as the pages of a project; a cycle it
    # is only where what lies there wants to have itself in it once more.
    if inner.url in urls and inner.declared & urls:
        raise _cyclic(
            inner.path, f"it comes from {git.without_credentials(inner.url)}, as what it lies in does"
        )
    if len(above) > _DEEPEST:
        raise _cyclic(inner.path, f"it is the {_DEEPEST}th in a row")


def _cyclic(path: str, why: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"the submodule {path} contains itself ({why}); remove it from the checkout (git rm {path}), or "
        f"leave it out with a line /{path} in .towlineignore",
        reason="CYCLIC_SUBMODULE",
        metadata={"path": path},
    )


def _told(folder: Path, *arguments: str) -> str:
    try:
        return os.fsdecode(git.ask(folder, *arguments))
    except FailedPrecondition:
        return ""


def _resolved(url: str, base: str) -> str:
    """Read a submodule's URL, which may be relative to that of the repository around it."""
    while url.startswith(("./", "../")):
        if url.startswith("../"):
            base = base.rstrip("/").rpartition("/")[0]
        url = url.partition("/")[2]
    relative = url in ("", ".") or not (url.startswith("/") or ":" in url)
    return _plain(f"{base.rstrip('/')}/{url}" if relative else url)


def _plain(url: str) -> str:
    return url.rstrip("/.").removesuffix(".git").rstrip("/")
