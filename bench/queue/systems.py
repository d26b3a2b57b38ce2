"""The systems that are compared: started on databases of their own, asked for steps, metered."""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from bench.queue.processes import cpu_seconds
from bench.queue.services import ROOT, Services, running_services
from bench.queue.side_process import SideProcess, side_process
from towline_testing.postgres import PostgresServer

__all__ = ["Answer", "Driven", "Peer", "System", "Towline"]

WAL: Final = "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint"
SIZE: Final = "SELECT pg_database_size(current_database())"


@dataclass(frozen=True)
class Answer:
    """What a step answered, and what it cost."""

    said: dict[str, Any]
    cpu_s: dict[str, float]
    """CPU seconds of "client", "services" (none with a library) and "postgresql"."""
    wal_bytes: int
    database_bytes: int
    """How much the database has grown."""


@dataclass
class Driven:
    """A system that runs, on a database of its own."""

    side: SideProcess
    postgres: PostgresServer
    database: str
    services: Services | None = None
    pids: dict[str, tuple[int, ...]] = field(init=False)

    def __post_init__(self) -> None:
        services = (self.services.registry_pid, self.services.queue_pid) if self.services else ()
        self.pids = {"client": (self.side.pid,), "services": services, "postgresql": (self.postgres.pid,)}

    @cached_property
    def about(self) -> dict[str, Any]:
        """Give what it says of itself, see Side.about."""
        return self.side.ask("about")

    def ask(self, step: str, **arguments: Any) -> Answer:
        """Have a step carried out.

        Raises:
            RuntimeError: It failed; the reason is on standard error.
        """
        wal, size = self.number(WAL), self.number(SIZE)
        cpu = {name: cpu_seconds(*pids) for name, pids in self.pids.items()}
        said = self.side.ask(step, **arguments)
        used = {name: cpu_seconds(*pids) - cpu[name] for name, pids in self.pids.items()}
        return Answer(said, used, self.number(WAL) - wal, self.number(SIZE) - size)

    def number(self, query: str) -> int:
        """Return the one number that a query of its database gives."""
        return int(self.postgres.psql(query, self.database))


@dataclass(frozen=True)
class System:
    """One that can be started."""

    name: str

    @contextmanager
    def running(self, postgres: PostgresServer) -> Iterator[Driven]:
        """Run it on a fresh database until the block is left; the database is dropped then."""
        database = f"{self.name.replace(' ', '_')}_{uuid4().hex[:8]}"
        postgres.psql(f"CREATE DATABASE {database}")
        with ExitStack() as stack:
            stack.callback(postgres.psql, f"DROP DATABASE {database} WITH (FORCE)")
            yield self._start(postgres, database, stack)

    def _start(self, postgres: PostgresServer, database: str, stack: ExitStack) -> Driven:
        raise NotImplementedError


@dataclass(frozen=True)
class Peer(System):
    """A library that works on PostgreSQL by itself."""

    python: Path

    def _start(self, postgres: PostgresServer, database: str, stack: ExitStack) -> Driven:
        module = f"{self.name}_side"
        side = stack.enter_context(side_process(module, postgres.url(database), python=self.python))
        return Driven(side, postgres, database)


@dataclass(frozen=True)
class Towline(System):
    """Towline, with agents that execute nothing.

    Attributes:
        sessions: Of agents, when a full queue is drained.
        slots: Of each; numbers with commas between them are tried in turn.
        checkout: Whose services run.
    """

    sessions: int
    slots: str
    checkout: Path = ROOT

    def _start(self, postgres: PostgresServer, database: str, stack: ExitStack) -> Driven:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="towline-bench-")))
        services = stack.enter_context(running_services(postgres.url(database), folder, self.checkout))
        arguments = (services.registry, services.queue, str(self.sessions), self.slots)
        side = stack.enter_context(side_process("towline_side", *arguments))
        return Driven(side, postgres, database, services)
