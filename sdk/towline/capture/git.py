"""What git says about a checkout. Git is asked, never told to change anything."""

import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit, urlunsplit

from towline.errors import FailedPrecondition

__all__ = ["Checkout", "checkout_of", "list_files", "provenance", "without_credentials"]

# A checkout of another user is read all the same, and no program named in its configuration is started.
_GIT: Final = ("git", "-c", "safe.directory=*", "-c", "core.fsmonitor=false")
_TIMEOUT_S: Final = 120


@dataclass(frozen=True)
class Checkout:
    """Where a checkout stands."""

    commit: str = ""
    """Full id; empty before the first commit."""
    remote: str = ""
    """Where its branch, or origin, comes from; without credentials."""
    branch: str = ""
    """Empty where HEAD is detached."""
    dirty: bool = False
    """Whether anything differs from the commit, untracked files included."""


def checkout_of(folder: Path) -> Path | None:
    """Give the root of the checkout a folder lies in; None if there is none, or no git."""
    try:
        answer = _git(folder, "rev-parse", "--show-toplevel", check=False)
    except FileNotFoundError:
        return None
    return Path(os.fsdecode(answer).removesuffix("\n")) if answer else None


def provenance(root: Path) -> Checkout:
    """Tell where a checkout stands."""

    def ask(*arguments: str) -> str:
        return _git(root, *arguments, check=False).decode(errors="replace").strip()

    branch = ask("symbolic-ref", "--quiet", "--short", "HEAD")
    remote = ask("config", f"branch.{branch}.remote") if branch else ""
    url = ask("remote", "get-url", remote or "origin")
    return Checkout(
        commit=ask("rev-parse", "--verify", "--quiet", "HEAD"),
        remote=without_credentials(url),
        branch=branch,
        dirty=bool(_git(root, "status", "--porcelain", "-z", check=False)),
    )


def list_files(root: Path) -> list[bytes]:
    """List what belongs to a checkout: tracked and untracked files, not those that .gitignore names.

    Submodules that are checked out, and repositories that lie inside, are listed with their files.
    Files that are deleted but not yet committed are listed too.
    """
    return list(_list_files(root, b""))


def _list_files(root: Path, prefix: bytes) -> Iterator[bytes]:
    listed = _git(root, "ls-files", "--cached", "--others", "--exclude-standard", "-z")
    for name in set(listed.split(b"\0")) - {b""}:
        inner = Path(os.fsdecode(os.fsencode(root) + b"/" + name.rstrip(b"/")))
        if inner.is_dir() and not inner.is_symlink():
            if (inner / ".git").exists():
                yield from _list_files(inner, prefix + name.rstrip(b"/") + b"/")
        else:
            yield prefix + name


def without_credentials(url: str) -> str:
    """Take user name and password out of a URL; the user of ssh is no secret and stays."""
    if "://" not in url:  # "git@host:path" or a path
        return url
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    if parts.scheme.endswith("ssh") and parts.username:
        host = f"{parts.username}@{host}"
    return urlunsplit(parts._replace(netloc=host))


def _git(folder: Path, *arguments: str, check: bool = True) -> bytes:
    # Variables such as GIT_DIR, set inside hooks, would name another repository.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    done = subprocess.run(
        [*_GIT, *arguments],
        cwd=folder,
        env=environment | {"GIT_OPTIONAL_LOCKS": "0"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=_TIMEOUT_S,
        check=False,
    )
    if done.returncode and check:
        problem = done.stderr.decode(errors="replace").strip()
        raise FailedPrecondition(f"git {arguments[0]} in {folder} failed: {problem}", reason="GIT_FAILED")
    return b"" if done.returncode else done.stdout
