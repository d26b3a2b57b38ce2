"""Source archives: nothing is put into an image before every member of its archive was judged safe."""

import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO, Final

from towline.errors import InvalidArgument

__all__ = ["Bounds", "check", "copy_below", "normalized"]

_LINK_HOPS: Final = 40  # as many as Linux follows
_NAMES: Final = "utf-8"  # whatever the locale; what is not goes through as the bytes that it is


@dataclass(frozen=True)
class Bounds:
    """How much an archive may unpack to."""

    members: int = 1_000_000
    total_bytes: int = 64 * 2**30


def check(members: Sequence[tarfile.TarInfo], bounds: Bounds) -> None:
    """Judge the members of a source archive, in their order.

    Raises:
        InvalidArgument: One is unsafe (reason UNSAFE_ARCHIVE); its name is in the message and the metadata.
    """
    if len(members) > bounds.members:
        raise InvalidArgument(
            f"the source archive has {len(members)} members, more than {bounds.members}; leave data out",
            reason="UNSAFE_ARCHIVE",
        )
    total = sum(member.size for member in members if member.isreg())
    if total > bounds.total_bytes:
        raise InvalidArgument(
            f"the source archive unpacks to {total} bytes, more than {bounds.total_bytes}; leave data out",
            reason="UNSAFE_ARCHIVE",
        )
    tree = _Tree()
    for member in members:
        tree.add(member)
    tree.check_links()


def normalized(name: str) -> str:
    """Return a member's path without "." parts and doubled slashes; the tree's root is "."."""
    return str(PurePosixPath(name))


def copy_below(source: IO[bytes], target: IO[bytes], folder: str, owner: int, bounds: Bounds) -> None:
    """Write a checked copy of an archive in which everything lies in `folder` and belongs to `owner`.

    Args:
        source: The archive, uncompressed; must be seekable.
        target: Gets the copy.
        folder: Relative path, such as "workspace".
        owner: Numeric user and group.
        bounds: How much it may unpack to.

    Raises:
        InvalidArgument: It is no tar archive (INVALID_ARCHIVE) or has an unsafe member (UNSAFE_ARCHIVE).
    """
    try:
        with tarfile.open(fileobj=source, mode="r:", encoding=_NAMES) as archive:
            members = archive.getmembers()
            check(members, bounds)
            with tarfile.open(fileobj=target, mode="w:", format=tarfile.PAX_FORMAT, encoding=_NAMES) as copy:
                for parent in _missing_folders(members):
                    copy.addfile(_folder("/".join([folder, *parent]), owner))
                for member in members:
                    if normalized(member.name) == ".":
                        continue
                    content = archive.extractfile(member) if member.isreg() else None
                    copy.addfile(_moved(member, folder, owner), content)
    except (tarfile.TarError, EOFError) as error:
        raise InvalidArgument(
            f"the source archive is not a complete tar archive: {error}", reason="INVALID_ARCHIVE"
        ) from error


def _missing_folders(members: Sequence[tarfile.TarInfo]) -> list[tuple[str, ...]]:
    """Return the parts of folders that members lie in but the archive does not list, the root first.

    An engine would make them for the archive, but as root's.
    """
    listed = {normalized(member.name) for member in members if member.isdir()}
    needed = {parent for member in members for parent in _parents(normalized(member.name))}
    return [(), *(tuple(path.split("/")) for path in sorted(needed - listed))]


def _folder(name: str, owner: int) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type = tarfile.DIRTYPE
    made.mode = 0o755
    made.uid = made.gid = owner
    return made


def _moved(member: tarfile.TarInfo, folder: str, owner: int) -> tarfile.TarInfo:
    made = tarfile.TarInfo(f"{folder}/{normalized(member.name)}")
    made.uid = made.gid = owner
    made.mtime = member.mtime
    made.type = member.type
    # Set-user-id bits have no business in a source tree, and the owner must be able to read and enter.
    made.mode = (member.mode & 0o777) | (0o700 if member.isdir() else 0o600)
    made.size = member.size if member.isreg() else 0
    made.linkname = f"{folder}/{normalized(member.linkname)}" if member.islnk() else member.linkname
    return made


class _Tree:
    """The tree that an archive would make."""

    def __init__(self) -> None:
        self._directories: set[str] = set()
        self._files: set[str] = set()
        self._links: dict[str, str] = {}

    def add(self, member: tarfile.TarInfo) -> None:
        path = self._path(member, member.name, "its path")
        if path == ".":
            if not member.isdir():
                raise _unsafe(member.name, "it would replace the root of the tree")
            return
        if path in self._files or path in self._links or (path in self._directories and not member.isdir()):
            raise _unsafe(member.name, "the archive has its path twice")
        for parent in _parents(path):
            if parent in self._files or parent in self._links:
                raise _unsafe(member.name, f"{parent!r} above it is not a folder")
            self._directories.add(parent)
        if member.isdir():
            self._directories.add(path)
        elif member.issym():
            if path in self._directories:
                raise _unsafe(member.name, "the archive has its path twice")
            self._links[path] = member.linkname
        elif member.islnk():
            target = self._path(member, member.linkname, "the hard link's target")
            if target not in self._files:
                raise _unsafe(member.name, f"its hard link's target {member.linkname!r} is no earlier file")
            self._files.add(path)
        elif member.isreg():
            self._files.add(path)
        else:
            raise _unsafe(member.name, "it is a device, a pipe or another special file")

    def check_links(self) -> None:
        for path, target in self._links.items():
            if not target or target.startswith("/") or "\0" in target:
                raise _unsafe(path, f"its symbolic link's target {target!r} is not a relative path")
            if not self._stays_inside(path):
                raise _unsafe(path, f"its symbolic link's target {target!r} leaves the tree")

    def _stays_inside(self, path: str) -> bool:
        """Walk a link as the kernel would, through other links of the archive."""
        here: list[str] = []
        ahead = list(reversed(path.split("/")))
        hops = 0
        while ahead:
            part = ahead.pop()
            if part in ("", "."):
                continue
            if part == "..":
                if not here:
                    return False
                here.pop()
                continue
            here.append(part)
            target = self._links.get("/".join(here))
            if target is not None:
                hops += 1
                if hops > _LINK_HOPS:
                    return True  # a loop: the kernel refuses it too, and it leads nowhere
                if target.startswith("/"):
                    return False
                here.pop()
                ahead.extend(reversed(target.split("/")))
        return True

    @staticmethod
    def _path(member: tarfile.TarInfo, name: str, what: str) -> str:
        if not name or "\0" in name:
            raise _unsafe(member.name, f"{what} is empty or has a NUL")
        if name.startswith("/"):
            raise _unsafe(member.name, f"{what} {name!r} is absolute")
        if ".." in name.split("/"):
            raise _unsafe(member.name, f"{what} {name!r} has '..' in it")
        return normalized(name)


def _parents(path: str) -> Iterable[str]:
    parts = path.split("/")[:-1]
    return ("/".join(parts[: count + 1]) for count in range(len(parts)))


def _unsafe(name: str, problem: str) -> InvalidArgument:
    return InvalidArgument(
        f"the source archive's member {name!r} is refused: {problem}",
        reason="UNSAFE_ARCHIVE",
        metadata={"member": name},
    )
