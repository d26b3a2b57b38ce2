"""One lane: an engine, a PostgreSQL and a registry of its own, on which scenarios run one after the other."""

import re
import shutil
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from towline.client import Client, Endpoints
from towline_testing.chaos_engine import ContainerWatch, PrivateEngine
from towline_testing.chaos_ground import Ground, make_jobs, service
from towline_testing.chaos_truth import Truth
from towline_testing.chaos_world import Verdict, World
from towline_testing.history import Kind
from towline_testing.ports import free_port
from towline_testing.postgres import EMBEDDED, PostgresServer, running_postgres
from towline_testing.programs import Program

Scenario = Callable[[World], None]

_LOST: Final = (Kind.LOST, Kind.STUCK)
_DUPLICATED: Final = (Kind.DUPLICATE, Kind.STALE)
_OVERLAPPING: Final = (Kind.OVERLAP, Kind.DOUBLE_LEASE)


@dataclass
class Outcome:
    """What became of one scenario; plain data, for it travels between processes."""

    name: str
    killed: str = ""
    seen: str = ""
    seconds: float = 0.0
    runs: int = 0
    lost: int = 0
    duplicated: int = 0
    overlapping: int = 0
    orphans: int = 0
    problems: list[str] = field(default_factory=list)
    logs: str = ""

    @property
    def survived(self) -> bool:
        return not self.problems


@contextmanager
def ground(folder: Path) -> Iterator[Ground]:
    """Bring up what scenarios share; all of it is gone afterwards."""
    with ExitStack() as stack:
        engine = PrivateEngine(folder / "e")
        stack.callback(engine.close)
        engine.start()
        engine.make_image()
        watch = ContainerWatch(engine)
        stack.callback(watch.close)
        postgres = stack.enter_context(running_postgres(EMBEDDED, fsync=True))
        address = f"127.0.0.1:{free_port()}"
        for database in ("registry", "chaos_template"):
            postgres.psql(f"CREATE DATABASE {database}")
        registry = _registry(folder, postgres, address)
        stack.callback(registry.kill)
        registry.start()
        with Client(Endpoints(registry=address, queue="")) as client:
            make_jobs(client)
        _make_template(folder, postgres, address)
        on = Ground(folder, postgres, engine, watch, registry, address)
        stack.callback(on.start_postgres)  # a killed one cannot be stopped in order
        yield on


def _registry(folder: Path, postgres: PostgresServer, address: str) -> Program:
    return service(
        "registry",
        "registry",
        folder,
        {
            "TOWLINE_REGISTRY_LISTEN": address,
            "TOWLINE_REGISTRY_DATABASE_URL": postgres.url("registry"),
            "TOWLINE_REGISTRY_BLOB_URL": (folder / "blobs").as_uri(),
            "TOWLINE_REGISTRY_SPOOL_DIR": str(folder / "spool"),
        },
    )


def _make_template(folder: Path, postgres: PostgresServer, registry: str) -> None:
    """Have a database with the queue service's tables and the triggers that tell what was committed."""
    queue = service(
        "queue",
        "migrate",
        folder,
        {
            "TOWLINE_QUEUE_LISTEN": "127.0.0.1:0",
            "TOWLINE_QUEUE_DATABASE_URL": postgres.url("chaos_template"),
            "TOWLINE_QUEUE_REGISTRY_ADDRESS": registry,
        },
    )
    try:
        queue.start()
    finally:
        queue.kill()
    template = Truth(postgres, "chaos_template")
    template.cut_connections()
    template.install()


def play(on: Ground, name: str, scenario: Scenario, keep: Path, always: bool) -> Outcome:
    """Run one scenario and judge it; a failed one, or `always` any, leaves its logs and history in `keep`."""
    outcome = Outcome(name)
    began = time.monotonic()
    world = World(on, name)
    try:
        try:
            scenario(world)
            _count(outcome, world.judge())
        except Exception as error:
            outcome.problems.append(_told(error))
            (world.folder / "traceback.txt").write_text(traceback.format_exc())
        outcome.killed, outcome.seen = ", ".join(world.killed), "; ".join(world.seen)
        if outcome.problems or always:
            _keep(world, keep / name)
            outcome.logs = str(keep / name)
    finally:
        world.close()
        restore(on)
    outcome.seconds = time.monotonic() - began
    return outcome


def restore(on: Ground) -> None:
    """Have the ground as the next scenario expects it."""
    if on.engine.process is None or on.engine.process.poll() is not None:
        on.engine.start()
    on.engine.clear()
    on.start_postgres()
    if not on.registry.running:
        on.registry.start()


def _count(outcome: Outcome, verdict: Verdict) -> None:
    kinds = Counter(violation.kind for violation in verdict.violations)
    outcome.runs = verdict.runs
    outcome.lost = sum(kinds[kind] for kind in _LOST)
    outcome.duplicated = sum(kinds[kind] for kind in _DUPLICATED)
    outcome.overlapping = sum(kinds[kind] for kind in _OVERLAPPING)
    outcome.orphans = len(verdict.orphans)
    outcome.problems += [str(violation) for violation in verdict.violations]
    outcome.problems += [f"orphan: {orphan}" for orphan in verdict.orphans]


def _told(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {' / '.join(lines[:6])[:1000]}" if lines else type(error).__name__


def _keep(world: World, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for pattern in ("*.log", "*.txt", "d-*/*.log", "d-*/deadlines.json"):
        for file in world.folder.glob(pattern):
            name = re.sub(r"\W+", "-", str(file.relative_to(world.folder).parent)).strip("-")
            shutil.copy(file, folder / "-".join(filter(None, [name, file.name])))
    for file in (world.ground.registry.log_file, world.engine.folder / "dockerd.log"):
        shutil.copy(file, folder / file.name)
