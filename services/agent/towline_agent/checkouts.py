"""Checkouts of git sources: one commit, the patch that goes over it, and its submodules.

Whatever git needs to be let in comes from this node alone: its configuration, credential helpers, ssh keys.
It asks nobody, runs no hook and no filter of the repository, and speaks only the protocols it may.
"""

import asyncio
import os
import re
import tarfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from towline.errors import FailedPrecondition, InvalidArgument, NotFound, TowlineError
from towline.v1 import jobs_pb2

__all__ = ["Checkouts", "pack"]

_WITHIN_S: Final = 3600.0
_LAST_LINES: Final = 5
_COMMIT: Final = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_DEEPEST: Final = 32
_GITLINK: Final = "160000 "
_EVERYTHING: Final = ("fetch", "--quiet", "--no-recurse-submodules")
_ALL_REFS: Final = "+refs/*:refs/remotes/origin/*"

# Nothing of this node's configuration changes what a file holds or how it is named, and a server that has
# stopped sending is given up.
_SETTINGS: Final = (
    "core.hooksPath=/dev/null",
    "core.autocrlf=false",
    "core.symlinks=true",
    "core.fileMode=true",
    "core.quotePath=false",
    "advice.detachedHead=false",
    "gc.auto=0",
    "http.lowSpeedLimit=1000",
    "http.lowSpeedTime=60",
    "submodule.recurse=false",
)
_OPTIONS: Final = tuple(word for setting in _SETTINGS for word in ("-c", setting))
# They would name another repository, or write what is sent, credentials too, into git's output.
_NOT_INHERITED: Final = re.compile(
    r"GIT_(DIR|WORK_TREE|INDEX_FILE|OBJECT_DIRECTORY|ALTERNATE_OBJECT_DIRECTORIES|COMMON_DIR|NAMESPACE|PREFIX"
    r"|CONFIG|TRACE.*|CURL_VERBOSE|REDACT_.*)"
)
_CREDENTIALS: Final = re.compile(r"//[^/@\s]+@")


class Checkouts:
    """Checks out commits.

    Args:
        protocols: Those that git may use, such as "https".
    """

    def __init__(self, protocols: Sequence[str]) -> None:
        self._protocols = protocols

    async def make(
        self, source: jobs_pb2.GitSource, folder: Path, patch: Path | None, waiting: Callable[[str], None]
    ) -> Path:
        """Check a commit out and return the folder in it that is the root of the source tree.

        Args:
            source: What to check out.
            folder: Empty; gets the checkout.
            patch: What to apply to it.
            waiting: Told what is done.

        Raises:
            NotFound: git cannot fetch it or a submodule (GIT_FETCH_FAILED), or it has no such sub-folder
                (GIT_SUBFOLDER_NOT_FOUND).
            InvalidArgument: Its commit is none (INVALID_FIELD), the patch does not fit (PATCH_FAILED), or a
                submodule contains itself (CYCLIC_SUBMODULE).
            FailedPrecondition: This node has no git; reason GIT_MISSING.
        """
        if not _COMMIT.fullmatch(source.commit) or source.remote.startswith("-"):
            raise InvalidArgument.field("git", "its remote or commit is none; record the job again")
        what = f"commit {source.commit[:12]} of {source.remote}"
        try:
            async with asyncio.timeout(_WITHIN_S):
                waiting(f"fetching {what}")
                await self._check_out(source, folder, what)
                if patch:
                    await self._apply(folder, patch, what)
                # A patch may have moved a submodule.
                below = source.subfolder.strip("/")
                await self._submodules(folder, (_plain(source.remote),), below, waiting)
        except TimeoutError:
            raise NotFound(
                f"git does not get {what}: it took longer than {_WITHIN_S:.0f} s", reason="GIT_FETCH_FAILED"
            ) from None
        return await asyncio.to_thread(_subfolder, folder, source.subfolder.strip("/"), what)

    async def _check_out(self, source: jobs_pb2.GitSource, folder: Path, what: str) -> None:
        kind = "sha256" if len(source.commit) == 64 else "sha1"
        failure = f"git cannot get {what}"
        await self._git(folder, "init", "--quiet", "--template=", f"--object-format={kind}", failure=failure)
        await self._git(folder, "config", "remote.origin.url", source.remote, failure=failure)
        # One commit where the server allows it, else everything.
        shallow = (*_EVERYTHING, "--no-tags", "--depth=1", "origin")
        if not await self._succeeds(folder, *shallow, source.commit):
            await self._git(folder, *_EVERYTHING, "origin", _ALL_REFS, failure=failure)
        commit = f"{source.commit}^{{commit}}"
        await self._git(folder, "checkout", "--quiet", "--force", "--detach", commit, "--", failure=failure)

    async def _apply(self, folder: Path, patch: Path, what: str) -> None:
        apply = ("apply", "--binary", "-p1", "--index", "--whitespace=nowarn", "--", str(patch))
        try:
            await self._git(folder, *apply, failure="git apply")
        except NotFound as error:
            raise InvalidArgument(
                f"the job's patch does not fit {what}: {error.message}; make it again with git diff --binary "
                f"{what.split()[1]}, and the job with it",
                reason="PATCH_FAILED",
            ) from None

    async def _submodules(
        self, folder: Path, above: tuple[str, ...], below: str, waiting: Callable[[str], None]
    ) -> None:
        """Check out the submodules of a checkout, and theirs.

        Args:
            folder: The checkout.
            above: Where it and those that it lies in come from, from the outermost on.
            below: Only submodules that have to do with this folder of it; empty: all.
            waiting: Told what is done.
        """
        for path in await self._submodule_paths(folder):
            if below and not f"{path}/".startswith(f"{below}/") and not f"{below}/".startswith(f"{path}/"):
                continue
            shown = os.fsencode(path).decode(errors="replace")
            failure = f"git cannot get the submodule {shown} of {above[-1]}"
            await self._git(folder, "submodule", "--quiet", "init", "--", path, failure=failure)
            waiting(f"fetching the submodule {shown}")
            update = ("submodule", "--quiet", "update", "--force", "--checkout")
            # As with the commit: not every server gives one that no branch points at.
            if not await self._succeeds(folder, *update, "--depth=1", "--", path):
                if (folder / path / ".git").exists():
                    await self._succeeds(folder / path, *_EVERYTHING, "--unshallow", "origin", _ALL_REFS)
                await self._git(folder, *update, "--", path, failure=failure)
            remote = await self._git(folder / path, "config", "remote.origin.url", failure=failure)
            remote = _plain(_clean(remote.strip()))
            # Once more than once: a branch may be a submodule of another one, such as a project's pages.
            if above.count(remote) > 1 or len(above) > _DEEPEST:
                raise InvalidArgument(
                    f"the submodule {shown} of {above[-1]} contains itself; remove it from the repository",
                    reason="CYCLIC_SUBMODULE",
                )
            await self._submodules(folder / path, (*above, remote), "", waiting)

    async def _submodule_paths(self, folder: Path) -> list[str]:
        """List the submodules that a checkout has and says the origin of."""
        failure = "git cannot list the submodules"
        index = await self._git(folder, "ls-files", "--stage", "-z", failure=failure)
        links = {line.partition("\t")[2] for line in index.split("\0") if line.startswith(_GITLINK)}
        written = folder / ".gitmodules"
        if not links or not written.is_file() or written.is_symlink():
            return []
        settings = await self._git(folder, "config", "--file", ".gitmodules", "--list", "-z", failure=failure)
        items = (item.partition("\n") for item in settings.split("\0"))
        paths = [path for key, _, path in items if key.startswith("submodule.") and key.endswith(".path")]
        return [path for path in dict.fromkeys(paths) if path in links]

    async def _succeeds(self, folder: Path, *arguments: str) -> bool:
        try:
            await self._git(folder, *arguments, failure="")
        except TowlineError:
            return False
        return True

    async def _git(self, folder: Path, *arguments: str, failure: str) -> str:
        """Run git and return what it prints; NotFound, with `failure` and git's last words, if it fails."""
        inherited = {name: value for name, value in os.environ.items() if not _NOT_INHERITED.fullmatch(name)}
        environment = inherited | {
            "LC_ALL": "C",
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_ALLOW_PROTOCOL": ":".join(self._protocols),
            "GIT_LFS_SKIP_SMUDGE": "1",
            "SSH_ASKPASS_REQUIRE": "never",
            # A folder above is not taken for the repository where this one is broken.
            "GIT_CEILING_DIRECTORIES": str(folder.parent),
        }
        try:
            process = await asyncio.create_subprocess_exec(
                "git",
                *_OPTIONS,
                *arguments,
                cwd=folder,
                env=environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                start_new_session=True,  # a Ctrl-C is not meant for git, and there is nobody to ask
            )
        except FileNotFoundError:
            raise FailedPrecondition(
                "git is not installed on this node; install it there", reason="GIT_MISSING"
            ) from None
        try:
            printed, errors = await process.communicate()
        finally:
            if process.returncode is None:
                with suppress(ProcessLookupError):  # its helpers, such as ssh, are of its group
                    os.killpg(process.pid, 9)
                await process.wait()
        if process.returncode:
            lines = errors.decode(errors="replace").strip().splitlines()[-_LAST_LINES:]
            raise NotFound(f"{failure}: {_clean(' '.join(lines))}", reason="GIT_FETCH_FAILED")
        return os.fsdecode(printed)


def pack(folder: Path, target: Path) -> None:
    """Write the files of a checkout, and of those in it, into a tar archive, without what git keeps there."""
    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT, encoding="utf-8") as archive:
        for place, folders, files in os.walk(folder):
            folders[:] = sorted(set(folders) - {".git"})
            links = [name for name in folders if Path(place, name).is_symlink()]
            for name in sorted({*files, *links} - {".git"}):
                path = Path(place, name)
                member = archive.gettarinfo(path, os.fspath(path.relative_to(folder)))
                # Two files with one content are two files, and nothing but the content is of interest.
                member.mtime = 0
                if path.is_symlink():
                    archive.addfile(member)
                    continue
                member.type, member.linkname, member.size = tarfile.REGTYPE, "", path.stat().st_size
                with path.open("rb") as content:
                    archive.addfile(member, content)


def _subfolder(folder: Path, below: str, what: str) -> Path:
    found = folder / below
    inside = found.resolve().is_relative_to(folder.resolve())
    if not found.is_dir() or not inside or ".git" in below.split("/"):
        raise NotFound(
            f"{what} has no folder {below}; correct the job's sub-folder", reason="GIT_SUBFOLDER_NOT_FOUND"
        )
    return found


def _plain(remote: str) -> str:
    return remote.rstrip("/.").removesuffix(".git").rstrip("/")


def _clean(words: str) -> str:
    """Take credentials out of what git says: the node's configuration may put them into URLs."""
    return _CREDENTIALS.sub("//", words)
