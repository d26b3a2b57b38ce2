"""A project's own lock, in place of what is installed: requirements.txt, uv.lock or environment.yml."""

import hashlib
import os
import re
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from towline import requirement_files
from towline.capture.editables import PROJECT_FILES
from towline.capture.git import without_credentials
from towline.errors import InvalidArgument
from towline.requirement_files import Kind, Line

__all__ = ["Format", "Lock", "LockFile", "read_lock"]

_FIELD: Final = "lock"
_KINDS: Final = "requirements.txt, uv.lock or environment.yml"
_PYPI: Final = "https://pypi.org/simple"
_CONDA_SPEC: Final = re.compile(r"(?:[^:\s]+::)?([A-Za-z0-9_.-]+)\s*(.*)")
_NAMED: Final = 5


class Format(Enum):
    """A kind of lock; its value is the name of LockFormat in jobs.proto."""

    REQUIREMENTS_TXT = "LOCK_FORMAT_REQUIREMENTS_TXT"
    UV_LOCK = "LOCK_FORMAT_UV_LOCK"
    CONDA_ENVIRONMENT = "LOCK_FORMAT_CONDA_ENVIRONMENT"


class LockFile(NamedTuple):
    """A lock that somebody asks for."""

    path: Path
    extras: tuple[str, ...] = ()
    """Extras and groups to install, for a uv.lock."""


@dataclass
class Lock:
    """A lock file of the source tree; paths are relative to the root of the tree and "/"-separated."""

    format: Format
    path: str
    digest: str
    """"sha256:" and 64 hex digits."""
    extras: tuple[str, ...] = ()
    """Extras and groups of a uv.lock."""
    files: set[str] = field(default_factory=set)
    """What the installation reads; all of it must be in the snapshot."""
    python: str = ""
    """The interpreter it asks for; empty: it does not say."""
    requirements: list[str] = field(default_factory=list)
    """Of an environment.yml: what its pip section lists."""
    editables: list[str] = field(default_factory=list)
    """Of an environment.yml."""
    extra_index_urls: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    """Lines for people."""


def read_lock(asked: LockFile, root: Path) -> Lock:
    """Read and judge a lock file of the source tree at `root`.

    Raises:
        InvalidArgument: It is no lock, cannot be read, lies outside of the source tree, or asks for what
            cannot be carried over; the message names what and where.
    """
    root = root.resolve()
    reader = _reader(asked.path)
    content, path = _read(asked.path, root)
    lock = Lock(reader.format, path, f"sha256:{hashlib.sha256(content.encode()).hexdigest()}", asked.extras)
    lock.files.add(path)
    if lock.extras and lock.format is not Format.UV_LOCK:
        raise _wrong(f"{path} has no extras or groups; only a uv.lock has")
    reader.read(lock, content, root)
    return lock


@dataclass(frozen=True)
class _Reader:
    format: Format
    read: Callable[[Lock, str, Path], None]


def _reader(file: Path) -> _Reader:
    name = file.name.lower()
    if name.endswith((".yml", ".yaml")):
        return _Reader(Format.CONDA_ENVIRONMENT, _read_conda)
    if name.endswith((".txt", ".in")):
        return _Reader(Format.REQUIREMENTS_TXT, _read_requirements)
    if name == "uv.lock":
        return _Reader(Format.UV_LOCK, _read_uv)
    hint = "; give the uv.lock beside it" if name == "pyproject.toml" else ""
    raise _wrong(f"{file} is no lock that Towline reads: {_KINDS}{hint}")


def _read(file: Path, root: Path) -> tuple[str, str]:
    """Read a file of the tree; return its text and its path."""
    place = file.resolve()
    if not place.is_relative_to(root):
        raise _wrong(f"{file} lies outside of the source tree {root}; copy it there")
    try:
        return place.read_bytes().decode(), place.relative_to(root).as_posix()
    except OSError as error:
        raise _wrong(f"{file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise _wrong(f"{file} is no UTF-8 text") from None


def _read_requirements(lock: Lock, content: str, root: Path) -> None:
    unpinned: list[str] = []
    for path, line in _lines(lock, lock.path, content, root):
        if line.kind is Kind.REQUIREMENT and not line.pinned:
            unpinned.append(line.value)
        _check_line(lock, path, line, root)
    _warn_unpinned(lock, unpinned)


def _lines(lock: Lock, path: str, content: str, root: Path) -> list[tuple[str, Line]]:
    """Give the lines of a requirements file and of those it includes, with the file each is from."""
    try:
        lines = requirement_files.read(content)
    except ValueError as error:
        raise _wrong(f"{path} is no requirements file: {error}") from None
    found = []
    for line in lines:
        _check_login(f"{path}, line {line.number}", line)
        if line.kind is not Kind.INCLUDE:
            found.append((path, line))
            continue
        if urlsplit(line.value).scheme:
            raise _wrong(f"{path}, line {line.number}: {line.value} is not in the source tree; copy it there")
        inner, inner_path = _read(root / path / ".." / line.value, root)
        constraint = line.text.startswith(("-c", "--constraint"))
        if inner_path not in lock.files:
            lock.files.add(inner_path)
            # A constraint pins nothing by itself and installs nothing.
            further = _lines(lock, inner_path, inner, root)
            found.extend(each for each in further if not constraint or each[1].kind is Kind.INDEX)
    return found


def _check_login(where: str, line: Line) -> None:
    logins = (match[1] for match in re.finditer(r"://([^/\s]*)@", line.text))
    if any(login != "git" and "${" not in login for login in logins):
        raise _wrong(
            f"{where} has a user name or a password in a URL; agents have their own, or take one from the "
            "environment (${NAME})"
        )


def _check_line(lock: Lock, path: str, line: Line, root: Path) -> None:
    where = f"{path}, line {line.number}"
    if line.kind is Kind.INDEX and not urlsplit(line.value).scheme:
        raise _wrong(f"{where}: folders of packages are not taken; name each file (./wheels/a-1.0-….whl)")
    if line.kind is Kind.LOCAL:
        _local(lock, where, line, root)


def _local(lock: Lock, where: str, line: Line, root: Path) -> Path:
    """Give the place of something that lies in the source tree."""
    # As pip has it: relative to where it is started, not to an included file.
    folder = (root / lock.path).parent
    place = Path(os.path.normpath(folder / line.value))
    if Path(line.value).is_absolute() or not place.resolve().is_relative_to(root):
        raise _wrong(f"{where}: {line.value} lies outside of the source tree; copy it there")
    if not place.exists():
        raise _wrong(
            f"{where}: {line.value} does not exist in {folder}, the folder of the lock; write it from there"
        )
    return place


def _read_uv(lock: Lock, content: str, root: Path) -> None:
    document = _toml(lock.path, content)
    packages = document.get("package", [])
    if not isinstance(document.get("version"), int) or not _are_packages(packages):
        raise _wrong(f"{lock.path} is no lock of uv: it has no version, or packages that are none")
    project, project_path = _read(root / lock.path / ".." / "pyproject.toml", root)
    lock.files.add(project_path)
    _toml(project_path, project)
    known = _uv_extras(packages)
    if unknown := [name for name in lock.extras if name not in known]:
        offered = f"it has {', '.join(sorted(known))}" if known else "it has none"
        raise _wrong(f"{lock.path} has no extra or group {', '.join(unknown)}; {offered}")
    for package in packages:
        source = package.get("source", {})
        if outside := _outside(source, (root / lock.path).parent, root):
            raise _wrong(
                f"{lock.path}: {package.get('name')} comes from {outside}, outside of the source tree; "
                "record from a folder that holds both"
            )
        if (index := source.get("registry", _PYPI)) != _PYPI and urlsplit(index).scheme in ("http", "https"):
            lock.extra_index_urls.append(without_credentials(index))
    lock.extra_index_urls = list(dict.fromkeys(lock.extra_index_urls))


def _are_packages(packages: Any) -> bool:
    tables = ("source", "optional-dependencies", "dev-dependencies")
    return isinstance(packages, list) and all(
        isinstance(package, dict) and all(isinstance(package.get(table, {}), dict) for table in tables)
        for package in packages
    )


def _uv_extras(packages: Sequence[Any]) -> set[str]:
    """Give the names that projects of the workspace have extras and groups by."""
    own = (each for each in packages if {"editable", "virtual", "directory"} & each.get("source", {}).keys())
    tables = ("optional-dependencies", "dev-dependencies")
    return {name for package in own for table in tables for name in package.get(table, {})}


def _outside(source: Any, folder: Path, root: Path) -> str:
    for kind in ("editable", "directory", "path", "virtual"):
        place = source.get(kind)
        if place is not None and not (folder / place).resolve().is_relative_to(root):
            return str(place)
    return ""


def _toml(path: str, content: str) -> dict[str, Any]:
    try:
        return tomllib.loads(content)
    except tomllib.TOMLDecodeError as error:
        raise _wrong(f"{path} is no TOML: {error}") from None


def _read_conda(lock: Lock, content: str, root: Path) -> None:
    document = _yaml(lock.path, content)
    wanted = document.get("dependencies") if isinstance(document, dict) else None
    if not isinstance(wanted, list):
        raise _wrong(f"{lock.path} is no environment of conda: it has no list of dependencies")
    of_conda: list[str] = []
    python: str | None = None
    for entry in wanted:
        if isinstance(entry, dict) and list(entry) == ["pip"] and isinstance(entry["pip"], list):
            _read_pip_section(lock, [str(line) for line in entry["pip"]], root)
            continue
        spec = _CONDA_SPEC.fullmatch(str(entry).strip())
        if spec is None:
            raise _wrong(f"{lock.path}: {str(entry)[:80]!r} is no package of conda; write name=version")
        if spec[1].lower() == "python":
            python = spec[2]
        elif spec[1].lower() != "pip":
            of_conda.append(spec[1])
    variables = document.get("variables")
    if python is not None:
        lock.python = _conda_python(lock.path, python, needed=not of_conda and not variables)
    if variables is not None and not isinstance(variables, dict):
        raise _wrong(f"{lock.path}: its variables are no names with values")


def _read_pip_section(lock: Lock, section: Sequence[str], root: Path) -> None:
    unpinned = []
    for path, line in _lines(lock, lock.path, "\n".join(section), root):
        _check_line(lock, path, line, root)
        if line.kind is Kind.REQUIREMENT:
            if line.text.startswith("-") or " --" in line.text:
                raise _wrong(f"{path}: {line.text!r} has options of pip; write it as a requirement")
            lock.requirements.append(line.text)
            if not line.pinned:
                unpinned.append(line.value)
        elif line.kind is Kind.LOCAL:
            place = _local(lock, path, line, root)
            if not place.is_dir() or not any((place / name).is_file() for name in PROJECT_FILES):
                raise _wrong(f"{path}: {line.value} is no folder of a project; write a requirement")
            lock.editables.append(place.relative_to(root).as_posix())
        elif line.kind is Kind.INDEX and line.text.startswith("--extra-index-url"):
            lock.extra_index_urls.append(line.value)
        else:
            raise _wrong(f"{path}: {line.text!r} is not taken in a pip section; write requirements only")
    _warn_unpinned(lock, unpinned)


def _conda_python(path: str, version: str, *, needed: bool) -> str:
    """Read the version of Python; where conda is there to choose one, it need not be just one."""
    found = re.fullmatch(r"={1,2}\s*(3\.[0-9]+(?:\.[0-9]+)?)(?:\.\*)?(?:=\S+)?", version.replace(" ", ""))
    if found is None and needed:
        raise _wrong(f"{path}: python{version} is not one version; write python=3.11, for instance")
    return found[1] if found else ""


def _yaml(path: str, content: str) -> Any:
    try:
        import yaml  # noqa: PLC0415 - comes with towline[cli]
    except ImportError:
        raise _wrong(f"{path} needs PyYAML to be read: pip install 'towline[cli]'") from None
    try:
        return yaml.safe_load(content)
    except yaml.YAMLError as error:
        raise _wrong(f"{path} is no YAML: {' '.join(str(error).split())}") from None


def _warn_unpinned(lock: Lock, names: Sequence[str]) -> None:
    if names:
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        lock.warnings.append(
            f"{lock.path} leaves versions open, so another image may get others: "
            f"{', '.join(names[:_NAMED])}{more}; pin them with =="
        )


def _wrong(problem: str) -> InvalidArgument:
    return InvalidArgument.field(_FIELD, problem)
