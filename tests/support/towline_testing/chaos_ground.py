"""What chaos scenarios that run after each other stand on, and how Towline's services are started there."""

import os
import sys
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from subprocess import CalledProcessError
from typing import Final

from google.protobuf.duration_pb2 import Duration

from towline.client import Client
from towline.v1 import runs_pb2
from towline_testing.chaos_engine import IMAGE, ContainerWatch, PrivateEngine
from towline_testing.jobs import image_job
from towline_testing.postgres import PostgresServer
from towline_testing.programs import Program
from towline_testing.waiting import eventually

ROOT: Final = Path(__file__).resolve().parents[3]
_PACKAGES: Final = ("sdk", "services/queue", "services/registry", "services/agent")
# Programs in containers. Each prints what a scenario needs to tell one attempt from another.
JOBS: Final = {
    # Numbered lines until LINES, or until the file /tmp/end is there.
    "count": "i=0; while [ $i -lt $LINES ] && [ ! -e /tmp/end ]; do echo $i; i=$((i+1)); usleep 50000; done",
    # Says why it was told to stop, and ends in order.
    "polite": 'trap "cat /towline/stop.json; exit 0" TERM; echo ready; while :; do usleep 50000; done',
    # Takes no notice of the stop signal.
    "stubborn": 'trap "echo no" TERM; echo ready; while :; do usleep 50000; done',
    # Leaves an output.
    "output": "echo ready; echo 42 > $TOWLINE_OUTPUTS/answer; while [ ! -e /tmp/end ]; do usleep 50000; done",
}


@dataclass(frozen=True)
class Ground:
    """What scenarios that run after each other share: an engine, a PostgreSQL, a registry with the jobs."""

    folder: Path
    postgres: PostgresServer
    engine: PrivateEngine
    watch: ContainerWatch
    registry: Program
    registry_address: str

    def start_postgres(self) -> None:
        """Start PostgreSQL, unless it runs; what a killed one left has to end first."""
        eventually(self._postgres_runs, within=30, every=0.2)

    def _postgres_runs(self) -> bool:
        try:
            self.postgres.psql("SELECT 1")
        except CalledProcessError:
            with suppress(CalledProcessError):
                self.postgres.start()
            return False
        return True


def service(
    kind: str,
    name: str,
    folder: Path,
    environment: dict[str, str],
    *,
    python_path: str = "",
    prefix: tuple[str, ...] = (),
) -> Program:
    """Make one of Towline's services, with the code of this tree or of `python_path`."""
    ready = folder / f"{name}.address"
    path = python_path or os.pathsep.join(str(ROOT / package) for package in _PACKAGES)
    return Program(
        name,
        [*prefix, sys.executable, "-m", f"towline_{kind}"],
        environment
        | {
            "PYTHONPATH": path,
            "PYTHONDONTWRITEBYTECODE": "",
            f"TOWLINE_{kind.upper()}_ADDRESS_FILE": str(ready),
        },
        folder,
        ready,
    )


def make_jobs(client: Client) -> None:
    """Record the programs that scenarios run."""
    for name, script in JOBS.items():
        image_job(client, name, IMAGE, ("/bin/sh", "-c", script))


def soon() -> runs_pb2.RetryPolicy:
    """Retry without the usual waits."""
    return runs_pb2.RetryPolicy(first_backoff=seconds(0.2))


def seconds(value: float) -> Duration:
    made = Duration()
    made.FromTimedelta(timedelta(seconds=value))
    return made
