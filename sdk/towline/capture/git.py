"""What git says about a checkout. Git is asked, never told to change anything."""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import urlsplit, urlunsplit

from towline.errors import FailedPrecondition

__all__ = [
    "Answer",
    "Checkout",
    "ask",
    "checkout_of",
    "looks_like_checkout",
    "provenance",
    "repository_around",
    "run",
    "trouble_with",
    "without_credentials",
]

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


class Answer(NamedTuple):
    """What git prints."""

    out: bytes
    complaints: str
    """On standard error, in English."""


def ask(folder: Path, *arguments: str) -> bytes:
    """Run git in a folder and return what it prints; FailedPrecondition, reason GIT_FAILED, if it cannot."""
    return run(folder, *arguments).out


def run(folder: Path, *arguments: str) -> Answer:
    """Do what `ask` does, and return what git complains about too."""
    # Variables such as GIT_DIR, set inside hooks, would name another repository.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(
            [*_GIT, *arguments],
            cwd=folder,
            env=environment | {"GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        problem = f"it took longer than {_TIMEOUT_S} s"
    except OSError as error:
        problem = "git is not installed" if shutil.which("git") is None else str(error)
    else:
        if not done.returncode:
            return Answer(done.stdout, os.fsdecode(done.stderr))
        problem = " ".join(done.stderr.decode(errors="replace").split())
    raise FailedPrecondition(f"git {arguments[0]} in {folder} failed: {problem}", reason="GIT_FAILED")


def checkout_of(folder: Path) -> Path | None:
    """Give the root of the checkout a folder lies in; None if there is none that git can read, or no git."""
    try:
        answer = ask(folder, "rev-parse", "--show-toplevel")
    except FailedPrecondition:
        return None
    return Path(os.fsdecode(answer).removesuffix("\n")) if answer else None


def repository_around(folder: Path) -> Path | None:
    """Give the nearest folder, this one or above it, that looks like a checkout, if any."""
    for place in (folder, *folder.parents):
        if looks_like_checkout(place):
            return place
    return None


def looks_like_checkout(folder: Path) -> bool:
    """Say whether a folder has what git keeps in the top folder of a checkout."""
    return os.path.lexists(folder / ".git")  # unlike pathlib's, it raises for no folder


def trouble_with(folder: Path) -> str | None:
    """Say why git cannot read what looks like a checkout; None if it can."""
    try:
        ask(folder, "rev-parse", "--show-toplevel")
    except FailedPrecondition as error:
        return error.message
    return None


def provenance(root: Path) -> Checkout:
    """Tell where a checkout stands; what git cannot tell is empty."""

    def told(*arguments: str) -> str:
        try:
            return ask(root, *arguments).decode(errors="replace").strip()
        except FailedPrecondition:
            return ""

    branch = told("symbolic-ref", "--quiet", "--short", "HEAD")
    remote = told("config", f"branch.{branch}.remote") if branch else ""
    # Nothing is fetched for it, as the search for renamed files would in a partial clone.
    changes = told("status", "--porcelain", "--no-renames", "-z")
    return Checkout(
        commit=told("rev-parse", "--verify", "--quiet", "HEAD"),
        remote=without_credentials(told("remote", "get-url", remote or "origin")),
        branch=branch,
        dirty=bool(changes),
    )


def without_credentials(url: str) -> str:
    """Take user name and password out of a URL; the user of ssh is no secret and stays."""
    if "://" not in url:  # "git@host:path" or a path
        return url
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    if parts.scheme.endswith("ssh") and parts.username:
        host = f"{parts.username}@{host}"
    return urlunsplit(parts._replace(netloc=host))
