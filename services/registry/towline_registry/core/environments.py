"""Checks of the environment that a job replicates."""

import re
from collections.abc import Collection, Sequence
from typing import Final
from urllib.parse import urlsplit

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import InvalidWheelFilename, parse_wheel_filename

from towline.errors import InvalidArgument
from towline.requests.system import is_package
from towline.v1 import jobs_pb2
from towline.v1.jobs_pb2 import DependencyLock, PythonEnvironment, Wheel
from towline_registry.core import digests, texts
from towline_registry.core.findings import Findings

__all__ = ["FETCHED", "check"]

MAX_REQUIREMENTS: Final = 5000
MAX_REQUIREMENT_CHARACTERS: Final = 1024
MAX_INDEXES: Final = 16
MAX_WHEELS: Final = 256
MAX_EDITABLES: Final = 256
MAX_EXTRAS: Final = 64
MAX_SYSTEM_PACKAGES: Final = 500

_PYTHON: Final = re.compile(r"3\.(0|[1-9][0-9]?)(\.(0|[1-9][0-9]?))?")
_VCS: Final = re.compile(r"(git|hg|svn|bzr)\+")
_EXTRA: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9])?")
_PLAIN: Final = re.compile(r"[A-Za-z0-9_.+!-]{1,255}")
_WEB: Final = frozenset({"http", "https"})
FETCHED: Final = _WEB | {"ssh", "git", "file"}
"""Schemes of URLs that an agent fetches from."""

_ROOT: Final = "."
# What a lock of each kind may be called, beside being a file of the tree.
_LOCK_NAMES: Final = {
    jobs_pb2.LOCK_FORMAT_REQUIREMENTS_TXT: re.compile(r".+"),
    jobs_pb2.LOCK_FORMAT_UV_LOCK: re.compile(r"uv\.lock"),
    jobs_pb2.LOCK_FORMAT_CONDA_ENVIRONMENT: re.compile(r".+\.ya?ml"),
}


def check(python: PythonEnvironment, findings: Findings) -> None:
    """Find what is wrong with an environment; fields are named as "spec.python.…"."""
    if not _PYTHON.fullmatch(python.version):
        findings.add(
            "spec.python.version",
            f'{python.version[:40]!r} is no version of Python 3; write "3.11" or "3.11.7"',
        )
    _bound(python.requirements, "spec.python.requirements", MAX_REQUIREMENTS, findings)
    for requirement in python.requirements[:MAX_REQUIREMENTS]:
        with findings.gathering():
            _check_requirement(requirement, "spec.python.requirements")
    _bound(python.extra_index_urls, "spec.python.extra_index_urls", MAX_INDEXES, findings)
    for url in python.extra_index_urls[:MAX_INDEXES]:
        with findings.gathering():
            texts.without_credentials(url, "spec.python.extra_index_urls", _WEB)
    _check_system_packages(python.system_packages, findings)
    _check_wheels(python.wheels, findings)
    _check_editables(python.editables, findings)
    if python.HasField("lock"):
        _check_lock(python.lock, findings)


def _bound(values: Collection[object], field: str, most: int, findings: Findings) -> None:
    if len(values) > most:
        findings.add(field, f"at most {most} are taken")


def _check_requirement(text: str, field: str) -> None:
    texts.bounded(text, field, MAX_REQUIREMENT_CHARACTERS)
    if not text.isprintable():
        raise InvalidArgument.field(field, f"{text[:80]!r} is more than one line; give one requirement each")
    try:
        url = Requirement(text).url
    except InvalidRequirement as error:
        raise InvalidArgument.field(
            field, f"{text[:80]!r} is not as PEP 508 has it: {str(error).splitlines()[0]}"
        ) from None
    if url:
        bare = _VCS.sub("", url, count=1)
        scheme = urlsplit(bare).scheme
        texts.without_credentials(bare, field, FETCHED if scheme in FETCHED else {scheme})


def _check_system_packages(packages: Sequence[str], findings: Findings) -> None:
    field = "spec.python.system_packages"
    _bound(packages, field, MAX_SYSTEM_PACKAGES, findings)
    for index, package in enumerate(packages[:MAX_SYSTEM_PACKAGES]):
        if not is_package(package):
            findings.add(
                f"{field}[{index}]",
                f"{package[:80]!r} is no Debian package as apt-get takes it; write ffmpeg or ffmpeg=7:5.1",
            )
        if package in packages[:index]:
            findings.add(f"{field}[{index}]", f"{package[:80]!r} comes twice; give each package once")


def _check_wheels(wheels: Sequence[Wheel], findings: Findings) -> None:
    _bound(wheels, "spec.python.wheels", MAX_WHEELS, findings)
    seen: set[str] = set()
    for index, wheel in enumerate(wheels[:MAX_WHEELS]):
        path = f"spec.python.wheels[{index}]"
        with findings.gathering():
            _check_wheel_name(wheel.filename, f"{path}.filename")
        if wheel.filename in seen:
            findings.add(f"{path}.filename", f"{wheel.filename[:80]!r} comes twice; give each wheel once")
        seen.add(wheel.filename)
        with findings.gathering():
            digests.checked(wheel.digest, f"{path}.digest")
        if not 0 <= wheel.size_bytes <= digests.MAX_BLOB_BYTES:
            findings.add(f"{path}.size_bytes", "it is not within 0 to 1 TiB")


def _check_wheel_name(name: str, field: str) -> None:
    try:
        parse_wheel_filename(name)
    except InvalidWheelFilename:
        raise InvalidArgument.field(
            field, f"{name[:80]!r} is no name of a wheel; write {{name}}-{{version}}-{{tags}}.whl"
        ) from None
    if not _PLAIN.fullmatch(name):
        raise InvalidArgument.field(
            field, f"{name[:80]!r} is no name of a file; take letters, digits, '_.+!-'"
        )


def _check_editables(editables: Sequence[str], findings: Findings) -> None:
    _bound(editables, "spec.python.editables", MAX_EDITABLES, findings)
    for index, folder in enumerate(editables[:MAX_EDITABLES]):
        path = f"spec.python.editables[{index}]"
        if folder != _ROOT:
            with findings.gathering():
                texts.relative_path(folder, path)
        if folder in editables[:index]:
            findings.add(path, f"{folder[:80]!r} comes twice; give each folder once")


def _check_lock(lock: DependencyLock, findings: Findings) -> None:
    pattern = _LOCK_NAMES.get(lock.format)
    if pattern is None:
        findings.add("spec.python.lock.format", "say which kind of file it is: one of LOCK_FORMAT_…")
    with findings.gathering():
        texts.relative_path(lock.path, "spec.python.lock.path")
        if pattern and not pattern.fullmatch(lock.path.rpartition("/")[2]):
            findings.add(
                "spec.python.lock.path",
                f"{lock.path[-80:]!r} is no name of such a file; uv has uv.lock, conda *.yml or *.yaml",
            )
    with findings.gathering():
        digests.checked(lock.digest, "spec.python.lock.digest")
    _bound(lock.extras, "spec.python.lock.extras", MAX_EXTRAS, findings)
    if lock.extras and lock.format != jobs_pb2.LOCK_FORMAT_UV_LOCK:
        findings.add("spec.python.lock.extras", "only uv.lock has extras and groups; leave them out")
    for index, extra in enumerate(lock.extras[:MAX_EXTRAS]):
        if not _EXTRA.fullmatch(extra):
            findings.add(
                f"spec.python.lock.extras[{index}]",
                f"{extra[:80]!r} is no name of an extra or group; take letters, digits, '.', '_', '-'",
            )
