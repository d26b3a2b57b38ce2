"""Which files never leave a person's machine: decisions only, no I/O."""

from collections.abc import Iterable
from enum import Enum, auto
from fnmatch import fnmatchcase
from typing import Final

from pathspec import GitIgnoreSpec

__all__ = ["IGNORE_FILE", "Rules", "Verdict", "is_environment_marker"]

IGNORE_FILE: Final = ".towlineignore"

_NEVER: Final = frozenset({".git", "towline-outputs", "__pycache__", "node_modules"})
# A folder with one of these in it is an installed environment, not source.
_ENVIRONMENT_MARKERS: Final = ("pyvenv.cfg", "conda-meta/history")
_SECRETS: Final = (
    *(".env", ".env.*", "*.pem", "*.key", "*.p12", "*.pfx", "id_rsa", "id_dsa", "id_ecdsa", "id_ed25519"),
    *(".netrc", ".pypirc", ".git-credentials", "*credentials*", "shadow*"),
)
_SECRET_FOLDERS: Final = frozenset({".aws", ".kube", ".ssh"})
_SECRET_PATHS: Final = (".docker/config.json",)
# Examples, and source that deals with secrets: without it a program would not start.
_NO_SECRETS: Final = (".env.example", ".env.sample", ".env.template", "*.py", "*.pyi", "*.pyx")


class Verdict(Enum):
    """What becomes of a path."""

    KEPT = auto()
    LEFT_OUT = auto()
    LOOKS_SECRET = auto()


class Rules:
    """What is always left out, and what a .towlineignore says.

    Args:
        lines: The lines of a .towlineignore, in .gitignore's syntax. A line with "!" also keeps a file
            that looks like a secret; what is always left out it does not keep.
    """

    def __init__(self, lines: Iterable[str] = ()) -> None:
        self._patterns = GitIgnoreSpec.from_lines(lines)

    def file(self, path: str) -> Verdict:
        """Judge a file by its path, relative to the root of the tree and "/"-separated."""
        *folders, name = path.split("/")
        if not _NEVER.isdisjoint(folders) or name.endswith(".pyc") or name == ".git":
            return Verdict.LEFT_OUT
        said = self._patterns.check_file(path).include
        if said is None:
            return Verdict.LOOKS_SECRET if _looks_secret(path) else Verdict.KEPT
        return Verdict.LEFT_OUT if said else Verdict.KEPT

    def folder(self, path: str) -> bool:
        """Say whether a folder need not be looked into."""
        name = path.rpartition("/")[2]
        return name in _NEVER or self._patterns.check_file(f"{path}/").include is True


def is_environment_marker(path: str) -> str | None:
    """Give the folder that a path shows to be an installed environment ("" is the root), else None."""
    for marker in _ENVIRONMENT_MARKERS:
        if path == marker:
            return ""
        if path.endswith(f"/{marker}"):
            return path.removesuffix(f"/{marker}")
    return None


def _looks_secret(path: str) -> bool:
    *folders, name = path.lower().split("/")
    if not _SECRET_FOLDERS.isdisjoint(folders) or f"/{path}".endswith(tuple(f"/{p}" for p in _SECRET_PATHS)):
        return True
    named = _matches(name, _SECRETS) or any("credentials" in folder for folder in folders)
    return named and not _matches(name, _NO_SECRETS)


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
