"""Distributions that were installed from this machine's disk, as wheels that install again what is there."""

import base64
import configparser
import hashlib
import os
import shutil
import stat
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from csv import reader, writer
from dataclasses import dataclass
from io import StringIO
from pathlib import Path, PurePosixPath
from typing import Final

from towline.capture.requirements import LocalInstall

__all__ = ["Layout", "WheelFile", "collect"]

# What installers write; each writes its own.
_INSTALLERS: Final = frozenset(
    {"RECORD", "RECORD.jws", "RECORD.p7s", "INSTALLER", "REQUESTED", "direct_url.json"}
    | {"uv_cache.json", "uv_build.json"}
)
_CHUNK_BYTES: Final = 1024 * 1024
# From here on zip needs its wider sizes.
_LARGE_BYTES: Final = 1024**3


@dataclass(frozen=True)
class Layout:
    """Where an environment keeps what lies beside its packages."""

    scripts: Path
    data: Path

    def of(self, root: Path) -> "Layout":
        """Give that of a folder of packages, which may be a person's own beside the environment's."""
        if root.is_relative_to(self.data) or len(root.parents) < 3:
            return self
        prefix = root.parents[2]  # of lib/python3.11/site-packages
        return Layout(prefix / "bin", prefix)


@dataclass(frozen=True)
class WheelFile:
    """A wheel on this machine."""

    path: Path
    """Its name is the wheel's."""
    digest: str
    """"sha256:" and 64 hex digits."""
    size_bytes: int


class _NotWhole(Exception):
    """An installed distribution cannot be packed; the message says why."""


def collect(
    installs: Iterable[LocalInstall], layout: Layout, folder: Path
) -> tuple[tuple[WheelFile, ...], list[str]]:
    """Put a wheel of each distribution into a folder.

    It is a copy of the wheel that was installed, where that is still there as it was; else it is packed from
    the installed files, as they are now.

    Args:
        installs: The distributions.
        layout: Of the environment they are installed in.
        folder: Gets the wheels; must exist.

    Returns:
        The wheels, and lines for people about what cannot be packed.

    Raises:
        OSError: A wheel cannot be written.
    """
    made, warnings = [], []
    for install in installs:
        try:
            made.append(_copied(install, folder) or _packed(install, layout, folder))
        except _NotWhole as problem:
            name = install.distribution.name
            warnings.append(
                f"{name} was installed from {install.source} and is left out: {problem}; install it again, "
                "or from a package index"
            )
    return tuple(made), warnings


def _copied(install: LocalInstall, folder: Path) -> WheelFile | None:
    """Copy the wheel that was installed; None where it is not there any more, or another."""
    source = install.source
    if source.suffix != ".whl":
        return None
    target = folder / source.name
    try:
        shutil.copyfile(source, target)
        if install.sha256:
            same = _digest(target) == f"sha256:{install.sha256}"
        else:
            same = _has_what_is_installed(target, install)
    except (OSError, zipfile.BadZipFile, KeyError, UnicodeDecodeError):
        same = False
    if not same:
        target.unlink(missing_ok=True)
        return None
    return _file(target)


def _has_what_is_installed(wheel: Path, install: LocalInstall) -> bool:
    """Compare by the hashes in both RECORDs: not every installer notes that of the wheel."""
    with zipfile.ZipFile(wheel) as archive:
        name = next((each for each in archive.namelist() if each.endswith(".dist-info/RECORD")), "")
        listed = _hashes(archive.read(name).decode())
    there = _hashes(_record(install))
    return all(there.get(path) == value for path, value in listed.items() if ".data/" not in path)


def _hashes(record: str) -> dict[str, str]:
    return {row[0]: row[1] for row in reader(StringIO(record)) if len(row) > 1 and row[1]}


def _record(install: LocalInstall) -> str:
    try:
        return (install.distribution.metadata / "RECORD").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise _NotWhole("its installation has no RECORD of its files") from None


def _packed(install: LocalInstall, layout: Layout, folder: Path) -> WheelFile:
    """Pack the installed files: equal ones give equal bytes."""
    info = install.distribution.metadata
    target = folder / f"{info.name.removesuffix('.dist-info')}-{_tags(info)}.whl"
    record = StringIO()
    rows = writer(record, lineterminator="\n")
    try:
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, path in sorted(_members(install, layout)):
                rows.writerow([name, *_add(archive, name, path)])
            name = f"{info.name}/RECORD"
            rows.writerow([name, "", ""])
            archive.writestr(_member(name, 0o644), record.getvalue())
    except (OSError, UnicodeDecodeError) as error:
        target.unlink(missing_ok=True)
        raise _NotWhole(f"not all of it can be read ({error})") from error
    except _NotWhole:
        target.unlink(missing_ok=True)
        raise
    return _file(target)


def _tags(info: Path) -> str:
    """Give the tags of a wheel's name, from the WHEEL file that came with it."""
    try:
        lines = (info / "WHEEL").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        raise _NotWhole("its installation does not say which machines it is for (WHEEL)") from None
    tags = [line.partition(":")[2].strip().split("-") for line in lines if line.startswith("Tag:")]
    if not tags or any(len(tag) != 3 for tag in tags):
        raise _NotWhole("its installation does not say which machines it is for (Tag in WHEEL)")
    return "-".join(".".join(dict.fromkeys(column)) for column in zip(*tags, strict=True))


def _members(install: LocalInstall, layout: Layout) -> Iterator[tuple[str, Path]]:
    """Give the files of a distribution by their names in a wheel."""
    root, info = install.distribution.root, install.distribution.metadata
    layout = layout.of(root)
    data = f"{info.name.removesuffix('.dist-info')}.data"
    made_by_installers = _commands(info)
    for row in reader(StringIO(_record(install))):
        name = PurePosixPath(row[0]) if row else PurePosixPath()
        if name.suffix == ".pyc" or (name.parent.name == info.name and name.name in _INSTALLERS):
            continue
        path = Path(os.path.normpath(root / name))
        if path.is_relative_to(root):
            yield path.relative_to(root).as_posix(), path
        elif path.is_relative_to(layout.scripts):
            if path.name.removesuffix(".exe") not in made_by_installers:
                yield f"{data}/scripts/{path.relative_to(layout.scripts).as_posix()}", path
        elif path.is_relative_to(layout.data):
            yield f"{data}/data/{path.relative_to(layout.data).as_posix()}", path
        else:
            raise _NotWhole(f"its file {path} lies outside of the environment")


def _commands(info: Path) -> Mapping[str, str]:
    """Give the commands that installers make themselves."""
    parser = configparser.RawConfigParser(delimiters=("=",))
    parser.optionxform = str  # type: ignore[assignment, method-assign]  # as configparser's documentation has it
    try:
        parser.read(info / "entry_points.txt", encoding="utf-8")
    except (configparser.Error, UnicodeDecodeError):
        raise _NotWhole("its entry_points.txt cannot be read") from None
    kinds = (kind for kind in ("console_scripts", "gui_scripts") if parser.has_section(kind))
    return {name: target for kind in kinds for name, target in parser.items(kind)}


def _add(archive: zipfile.ZipFile, name: str, path: Path) -> tuple[str, int]:
    """Add a file and return its hash and size as RECORD has them."""
    executable = path.stat().st_mode & stat.S_IXUSR
    digest, size = hashlib.sha256(), 0
    made = _member(name, 0o755 if executable else 0o644)
    large = path.stat().st_size > _LARGE_BYTES
    with path.open("rb") as file, archive.open(made, "w", force_zip64=large) as member:
        for piece in _pieces(file.read(_CHUNK_BYTES), is_script=".data/scripts/" in name):
            digest.update(piece)
            size += member.write(piece)
        while piece := file.read(_CHUNK_BYTES):
            digest.update(piece)
            size += member.write(piece)
    return f"sha256={base64.urlsafe_b64encode(digest.digest()).rstrip(b'=').decode()}", size


def _pieces(start: bytes, *, is_script: bool) -> Sequence[bytes]:
    """Take the interpreter of this machine out of a script; whoever installs it puts in its own."""
    if is_script and start.startswith(b"#!") and b"python" in start.partition(b"\n")[0]:
        _, newline, rest = start.partition(b"\n")
        return [b"#!python" + newline, rest]
    return [start]


def _member(name: str, mode: int) -> zipfile.ZipInfo:
    made = zipfile.ZipInfo(name)  # from 1980
    made.external_attr = (stat.S_IFREG | mode) << 16
    made.compress_type = zipfile.ZIP_DEFLATED
    return made


def _file(path: Path) -> WheelFile:
    return WheelFile(path, _digest(path), path.stat().st_size)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
