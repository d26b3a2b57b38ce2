"""Which files never leave a person's machine: decisions only, no I/O."""

import re
import warnings
from collections.abc import Callable, Iterable
from enum import Enum, auto
from fnmatch import translate
from typing import Final, NamedTuple

from pathspec.patterns.gitignore.spec import GitIgnoreSpecPattern

__all__ = ["IGNORE_FILE", "IgnoreFiles", "Rules", "Verdict", "is_environment_marker"]

IGNORE_FILE: Final = ".towlineignore"
_GIT_IGNORE_FILE: Final = ".gitignore"


def _any_of(*patterns: str) -> re.Pattern[str]:
    return re.compile("|".join(translate(pattern) for pattern in patterns))


_NEVER: Final = frozenset({".git", "towline-outputs", "__pycache__", "node_modules"})
# A folder with one of these in it is an installed environment, not source.
_ENVIRONMENT_MARKERS: Final = ("pyvenv.cfg", "conda-meta/history")
_SECRETS: Final = _any_of(
    *(".env", ".env.*", "*.pem", "*.key", "*.p12", "*.pfx", "id_rsa", "id_dsa", "id_ecdsa", "id_ed25519"),
    *(".netrc", ".pypirc", ".git-credentials", "*credentials*", "shadow*", "secrets.*"),
    *("*.ppk", "*.jks", "*.keystore", "*.kdbx", ".pgpass", ".htpasswd", ".s3cfg", "service[-_]account*.json"),
)
_SECRET_FOLDERS: Final = frozenset({".aws", ".gnupg", ".kube", ".ssh"})
_SECRET_PATHS: Final = (".docker/config.json",)
# Examples, and source that deals with secrets: without it a program would not start.
_NO_SECRETS: Final = _any_of(".env.example", ".env.sample", ".env.template", "*.py", "*.pyi", "*.pyx")

Lines = Callable[[str], Iterable[str]]


class Verdict(Enum):
    """What becomes of a path."""

    KEPT = auto()
    LEFT_OUT = auto()
    LOOKS_SECRET = auto()


class IgnoreFiles:
    """Files of one name, in the folders of a tree, that say what to leave out, read as git does.

    The one next to a path goes over those further up; what lies in a folder that is left out stays out, and
    what is said of a folder holds for all in it of which nothing is said.

    Args:
        name: Their name.
        lines: Gives the lines of the file at a path, relative to the root; none where there is no such file.
    """

    def __init__(self, name: str, lines: Lines) -> None:
        self._name = name
        self._lines = lines
        self._read: dict[str, list[_Pattern]] = {}
        self._folders: dict[str, bool | None] = {"": None}

    def say(self, path: str) -> bool | None:
        """Tell whether a path is left out (True) or taken in by a line with "!" (False); None: neither.

        Args:
            path: Relative to the root, "/"-separated; with a "/" at its end, it is a folder.
        """
        folders, folder = [], _parent(path)
        while folder not in self._folders:
            folders.append(folder)
            folder = _parent(folder)
        above = self._folders[folder]
        for folder in reversed(folders):
            above = self._folders[folder] = self._below(above, f"{folder}/")
        return self._below(above, path)

    def _below(self, above: bool | None, path: str) -> bool | None:
        """Tell of a path in a folder of which `above` is said."""
        if above:
            return True
        said = self._match(path)
        return above if said is None else said

    def _match(self, path: str) -> bool | None:
        folder = _parent(path)
        while True:
            below = path[len(folder) + 1 :] if folder else path
            for pattern in self._patterns(folder):
                if pattern.matches(below):
                    return pattern.leaves_out
            if not folder:
                return None
            folder = _parent(folder)

    def _patterns(self, folder: str) -> "list[_Pattern]":
        """Give the patterns of the file in a folder, the last one first, as that has the say."""
        if folder not in self._read:
            lines = self._lines(f"{folder}/{self._name}" if folder else self._name)
            patterns = [pattern for line in lines if (pattern := _pattern(line))]
            self._read[folder] = patterns[::-1]
        return self._read[folder]


class Rules:
    """What is always left out, and what the ignore files of a tree say.

    A line with "!" in a .towlineignore also keeps a file that looks like a secret; what is always left out,
    or named in a .gitignore, it does not keep.

    Args:
        lines: Gives the lines of the file at a path, relative to the root; none where there is no such file.
        gitignore: Whether .gitignore files count; git itself has applied them where it listed the files.
    """

    def __init__(self, lines: Lines, *, gitignore: bool = False) -> None:
        self._towline = IgnoreFiles(IGNORE_FILE, lines)
        self._git = IgnoreFiles(_GIT_IGNORE_FILE, lines) if gitignore else None

    def file(self, path: str) -> Verdict:
        """Judge a file by its path, relative to the root of the tree and "/"-separated."""
        *folders, name = path.split("/")
        if not _NEVER.isdisjoint(folders) or name.endswith(".pyc") or name == ".git":
            return Verdict.LEFT_OUT
        said = self._towline.say(path)
        if said or (self._git and self._git.say(path)):
            return Verdict.LEFT_OUT
        return Verdict.LOOKS_SECRET if said is None and _looks_secret(path) else Verdict.KEPT

    def folder(self, path: str) -> bool:
        """Say whether a folder need not be looked into."""
        if path.rpartition("/")[2] in _NEVER or self._towline.say(f"{path}/"):
            return True
        return bool(self._git and self._git.say(f"{path}/"))


def is_environment_marker(path: str) -> str | None:
    """Give the folder that a path shows to be an installed environment ("" is the root), else None."""
    for marker in _ENVIRONMENT_MARKERS:
        if path == marker:
            return ""
        if path.endswith(f"/{marker}"):
            return path.removesuffix(f"/{marker}")
    return None


class _Pattern(NamedTuple):
    """One line of an ignore file."""

    compiled: GitIgnoreSpecPattern
    by_name: bool
    """Whether it is about the last part of a path only: no "/" stands before its end."""

    @property
    def leaves_out(self) -> bool | None:
        """Whether it leaves out what it matches, or takes it in."""
        return self.compiled.include

    def matches(self, path: str) -> bool:
        """Say whether it matches a path itself, and not only a folder that it lies in, or all in it."""
        if self.by_name:
            path = path[len(_parent(path)) :].lstrip("/")
        found = self.compiled.match_file(path)
        if found is None:
            return False
        # The group is the "/" after what was matched.
        ends = found.match.end("ps_d") if "ps_d" in found.match.re.groupindex else -1
        if ends >= 0:
            return ends == len(path)
        return not path.endswith("/") or self.compiled.match_file(path.rstrip("/")) is not None


def _pattern(line: str) -> _Pattern | None:
    """Read a line; None for one that means nothing to git."""
    try:
        with warnings.catch_warnings(action="ignore", category=FutureWarning):  # of what becomes of "[[]"
            compiled = GitIgnoreSpecPattern(line)
    except ValueError:
        return None
    by_name = "/" not in line.rstrip().removeprefix("!").rstrip("/")
    return None if compiled.include is None else _Pattern(compiled, by_name)


def _parent(path: str) -> str:
    return path.rstrip("/").rpartition("/")[0]


def _looks_secret(path: str) -> bool:
    *folders, name = path.lower().split("/")
    if not _SECRET_FOLDERS.isdisjoint(folders) or f"/{path}".endswith(tuple(f"/{p}" for p in _SECRET_PATHS)):
        return True
    named = _SECRETS.match(name) or any("credentials" in folder for folder in folders)
    return bool(named) and not _NO_SECRETS.match(name)
