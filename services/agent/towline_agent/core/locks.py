"""What a project's own lock asks for, and how that is installed."""

import hashlib
import posixpath
import shlex
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from towline.errors import InvalidArgument
from towline.requirement_files import Kind, read
from towline.v1 import jobs_pb2

__all__ = ["FOLDER", "Find", "Locked", "checked", "read_lock"]

FOLDER: Final = "/towline/lock"
_PROJECT: Final = "pyproject.toml"
_MOST_FILES: Final = 100
# What uv.lock says of packages that lie in the source tree and are installed from there.
_LOCAL: Final = ("editable", "directory", "path")

Find = Callable[[str], bytes]


@dataclass
class Locked:
    """An environment by its lock: first what is fetched, then what lies in the source tree."""

    fetch: str
    """Shell commands; they run where only `files` are."""
    project: str = ""
    """Shell commands; they run in the source tree. Empty: nothing of it is installed."""
    files: dict[str, bytes] = field(default_factory=dict)
    """What `fetch` reads, by path below FOLDER."""
    makes_prefix: bool = False
    """Whether `fetch` brings an interpreter of its own; the job's requirements are installed after it."""

    @property
    def digest(self) -> str:
        """Name what `fetch` installs: 64 hex digits."""
        content = hashlib.sha256(self.fetch.encode())
        for path in sorted(self.files):
            content.update(path.encode() + b"\0" + hashlib.sha256(self.files[path]).digest())
        return content.hexdigest()


def read_lock(lock: jobs_pb2.DependencyLock, find: Find, install: str) -> Locked:
    """Plan an installation by a lock of pip or uv; see core.conda for those of conda.

    Args:
        lock: With the format of a requirements.txt or a uv.lock.
        find: Reads a file of the source tree; NotFound where there is none.
        install: The shell command that installs requirements; options and requirements follow.

    Raises:
        InvalidArgument: It is no lock, or not the one that was recorded (reason INVALID_LOCK).
        NotFound: A file of it is not in the source tree.
    """
    content = checked(lock, find)
    if lock.format == jobs_pb2.LOCK_FORMAT_UV_LOCK:
        return _uv(lock, content, find, install)
    if lock.format == jobs_pb2.LOCK_FORMAT_REQUIREMENTS_TXT:
        return _requirements(lock, find, install)
    raise _invalid(f"{lock.path} is a lock of a kind that this agent does not know; upgrade the agent")


def checked(lock: jobs_pb2.DependencyLock, find: Find) -> bytes:
    """Read the file that is a lock; InvalidArgument where it is not the one that was recorded."""
    content = find(lock.path)
    found = f"sha256:{hashlib.sha256(content).hexdigest()}"
    if lock.digest and found != lock.digest:
        raise _invalid(
            f"{lock.path} has the digest {found}, not the recorded {lock.digest}; record the job again"
        )
    return content


def _requirements(lock: jobs_pb2.DependencyLock, find: Find, install: str) -> Locked:
    path = posixpath.normpath(lock.path)
    files: dict[str, bytes] = {}
    has_local = _collect(path, find, files)
    # Folders and files are meant relative to where pip is started: beside the lock.
    folder, name = posixpath.split(path)
    listed = f"--requirements {shlex.quote(name)}"
    return Locked(
        f"cd {shlex.quote(posixpath.join(FOLDER, folder))}\n{install} --compile-bytecode {listed}",
        f"cd {shlex.quote(folder or '.')}\n{install} {listed}" if has_local else "",
        files,
    )


def _collect(path: str, find: Find, files: dict[str, bytes]) -> bool:
    """Gather a requirements file and those it includes, without what lies in the source tree.

    Returns:
        Whether something of it lies there.
    """
    try:
        lines = read(find(path).decode())
    except ValueError as error:  # what is not UTF-8, too
        raise _invalid(f"{path} is no requirements file: {error}") from None
    kept = [line.text for line in lines if line.kind is not Kind.LOCAL]
    files[path] = "".join(f"{text}\n" for text in kept).encode()
    has_local = len(kept) < len(lines)
    for line in lines:
        if line.kind is Kind.INCLUDE:
            inner = posixpath.normpath(posixpath.join(posixpath.dirname(path), line.value))
            if inner.startswith(("/", "../")) or inner == "..":
                raise _invalid(f"{path}, line {line.number}: {line.value} lies outside of the source tree")
            if len(files) > _MOST_FILES:
                raise _invalid(f"{path} includes more than {_MOST_FILES} files")
            if inner not in files:
                has_local |= _collect(inner, find, files)
    return has_local


def _uv(lock: jobs_pb2.DependencyLock, content: bytes, find: Find, install: str) -> Locked:
    folder, name = posixpath.split(posixpath.normpath(lock.path))
    try:
        packages = tomllib.loads(content.decode()).get("package", [])
    except ValueError as error:
        raise _invalid(f"{lock.path} is no TOML: {error}") from None
    if not _are_packages(packages):
        raise _invalid(f"{lock.path} is no lock of uv: its packages are none; record the job again")
    project = posixpath.join(folder, _PROJECT)
    chosen = _chosen(lock, packages)
    export = (
        f"$uv export --quiet --python /opt/venv --frozen --no-emit-local --no-header --no-annotate{chosen} "
        "--output-file /towline/locked.txt"
    )
    fetch = f"cd {shlex.quote(posixpath.join(FOLDER, folder))}\n{export}\n"
    fetch += f"{install} --compile-bytecode --no-deps --requirements /towline/locked.txt"
    own = any(kind in package.get("source", {}) for package in packages for kind in _LOCAL)
    sync = f"cd {shlex.quote(folder or '.')}\n$uv sync --frozen --inexact{chosen}"
    return Locked(fetch, sync if own else "", {posixpath.join(folder, name): content, project: find(project)})


def _are_packages(packages: Any) -> bool:
    tables = ("source", "optional-dependencies", "dev-dependencies")
    return isinstance(packages, list) and all(
        isinstance(package, dict) and all(isinstance(package.get(table, {}), dict) for table in tables)
        for package in packages
    )


def _chosen(lock: jobs_pb2.DependencyLock, packages: list[Mapping[str, Any]]) -> str:
    """Write the extras and groups as options of uv; a name of both means both."""
    extras = {name for package in packages for name in package.get("optional-dependencies", {})}
    groups = {name for package in packages for name in package.get("dev-dependencies", {})}
    words = []
    for name in lock.extras:
        if name not in extras | groups:
            raise _invalid(f"{lock.path} has no extra or group {name!r}; record the job again")
        words += [f"--extra {shlex.quote(name)}"] if name in extras else []
        words += [f"--group {shlex.quote(name)}"] if name in groups else []
    return "".join(f" {word}" for word in words)


def _invalid(problem: str) -> InvalidArgument:
    return InvalidArgument(problem, reason="INVALID_LOCK")
