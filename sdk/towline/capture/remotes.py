"""Git repositories elsewhere, and patches for them, as a job may name them."""

import os
import re
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, urlsplit

from towline.errors import InvalidArgument, NotFound, Unavailable

__all__ = ["check_fit", "check_patch", "resolve"]

_COMMIT: Final = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_TIMEOUT_S: Final = 60
_SCHEMES: Final = ("https", "ssh", "http", "git")
# git@host:path, as ssh takes it.
_SCP_LIKE: Final = re.compile(r"([^@/:\s]+@)?[A-Za-z0-9][^@/:\s]*:(?!//)[^@\s]+")
# How git and its transports say that nobody answers, and that who answers has no such repository for us.
_NOBODY: Final = re.compile(r"resolve host|look up|name or service", re.IGNORECASE)
_NO_REPOSITORY: Final = re.compile(
    r"not found|does not exist|not exported|does not appear|could not read (Username|Password)"
    r"|Authentication failed|Permission denied|error: 40[134]",
    re.IGNORECASE,
)
# As agents do: nothing that runs a program of somebody's choice.
_PROTOCOLS: Final = "https:ssh:http:git:file"


def resolve(remote: str, ref: str) -> str:
    """Give the commit that a ref of a remote repository stands for; a commit stands for itself.

    Raises:
        InvalidArgument: The remote is no URL that agents take, or the repository has no such ref.
        NotFound: There is no such repository, or git may not read it; reason GIT_REPOSITORY_NOT_FOUND.
        Unavailable: The repository cannot be asked; reason GIT_FAILED.
    """
    _check_remote(remote)
    if _COMMIT.fullmatch(ref):
        return ref
    done = _git(["ls-remote", "--", remote, ref, f"{ref}^{{}}"], f"git ls-remote {remote}")
    if done.returncode:
        said = _said(done)
        if _NO_REPOSITORY.search(said) and not _NOBODY.search(said):
            raise NotFound(
                f"there is no repository {remote}, or git may not read it: {said}",
                reason="GIT_REPOSITORY_NOT_FOUND",
            )
        raise Unavailable(f"git ls-remote {remote}: {said}", reason="GIT_FAILED")
    lines = (line.partition("\t") for line in done.stdout.decode(errors="replace").splitlines())
    found = {name: commit for commit, _, name in lines}
    # An annotated tag is listed twice; the line with ^{} is the commit it points at.
    for name in (f"refs/tags/{ref}^{{}}", f"refs/heads/{ref}", f"refs/tags/{ref}", ref):
        if name in found:
            return found[name]
    raise InvalidArgument.field("--commit", f"{remote} has no branch, tag or full commit {ref!r}")


def check_patch(file: Path) -> None:
    """Have git read a patch, without applying it to anything; where there is no git, agents' will.

    Raises:
        InvalidArgument: It cannot be read, is empty, or is no patch; "--patch" is named as the field.
    """
    try:
        with file.open("rb") as opened:
            empty = not opened.read(1)
    except OSError as error:
        raise _wrong_patch(file, f"cannot be read: {error.strerror}") from None
    if empty:
        raise _wrong_patch(file, "it is empty; write it with git diff --binary, or leave it out")
    with tempfile.TemporaryDirectory(prefix="towline-patch-") as nowhere, suppress(Unavailable):
        done = _git(["apply", "--numstat", "-z", "--", str(file.resolve())], "git apply", Path(nowhere))
        if done.returncode:
            said = _said(done)
            raise _wrong_patch(
                file, f"git does not read it as a patch ({said}); write it with git diff --binary COMMIT"
            )


def check_fit(file: Path, remote: str, commit: str) -> None:
    """Have git apply a patch to a commit, of which only what the patch touches is fetched.

    Where the commit cannot be fetched from here, nothing is said: agents may be able to.

    Raises:
        InvalidArgument: It does not apply, or the repository has no such commit; "--patch" or "--commit" is
            named as the field.
    """
    with tempfile.TemporaryDirectory(prefix="towline-patch-") as folder, suppress(Unavailable):
        kind = "sha256" if len(commit) == 64 else "sha1"
        steps = (
            ["init", "--quiet", "--bare", "--template=", f"--object-format={kind}"],
            ["config", "remote.origin.url", remote],
            ["fetch", "--quiet", "--depth=1", "--no-tags", "--filter=blob:none", "origin", commit],
            ["read-tree", commit],
        )
        for step in steps:
            done = _git(step, f"git {step[0]}", Path(folder))
            if b"not our ref" in done.stderr:
                raise InvalidArgument.field(
                    "--commit", f"{remote} has no commit {commit}; push it there first"
                )
            if done.returncode:
                return
        apply = ["apply", "--cached", "--check", "--binary", "--", str(file.resolve())]
        done = _git(apply, "git apply", Path(folder))
        if done.returncode:
            raise _wrong_patch(
                file,
                f"it does not fit commit {commit[:12]} ({_said(done)}); write it with git diff --binary "
                f"{commit[:12]}, or name the commit that it is for",
            )


def _wrong_patch(file: Path, problem: str) -> InvalidArgument:
    return InvalidArgument.field(f"--patch {file}", problem)


def _said(done: subprocess.CompletedProcess[bytes]) -> str:
    """Give git's words without credentials, which a person's configuration may put into URLs (insteadOf)."""
    words = " ".join(done.stderr.decode(errors="replace").split())
    return re.sub(r"//[^/@\s]+@", "//", words) or f"exit code {done.returncode}"


def _git(arguments: Sequence[str], what: str, cwd: Path | None = None) -> subprocess.CompletedProcess[bytes]:
    repository = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_PREFIX", "GIT_CONFIG")
    inherited = {name: value for name, value in os.environ.items() if name not in repository}
    try:
        return subprocess.run(
            ["git", *arguments],
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_TIMEOUT_S,
            env={"GIT_ALLOW_PROTOCOL": _PROTOCOLS} | inherited | {"LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0"},
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise Unavailable(f"{what}: no answer within {_TIMEOUT_S} s", reason="GIT_FAILED") from None
    except OSError as error:
        raise Unavailable(f"{what}: {error}", reason="GIT_FAILED") from None


def _check_remote(remote: str) -> None:
    """Refuse what agents cannot fetch and what holds a secret; no message repeats it."""
    if _SCP_LIKE.fullmatch(remote) and not remote.startswith("-") and "::" not in remote:
        return
    try:
        parts = urlsplit(remote)
        _ = parts.port  # raises where it is no number, which is where a token may stand
    except ValueError:
        parts = SplitResult("", "", "", "", "")
    if parts.scheme not in _SCHEMES or not parts.hostname or any(map(str.isspace, remote)):
        schemes = ", ".join(f"{scheme}://" for scheme in _SCHEMES)
        raise InvalidArgument.field(
            "URL", f"this is no URL that agents fetch from; write one of {schemes} or user@host:path"
        )
    if parts.password is not None or (parts.username is not None and parts.scheme != "ssh"):
        raise InvalidArgument.field(
            "URL",
            "user names and passwords in URLs are refused; give the URL without them, agents have their own",
        )
