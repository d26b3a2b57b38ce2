"""A checkout's registry and queue service, as processes."""

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["ROOT", "Services", "running_services"]

ROOT: Final = Path(__file__).resolve().parents[2]
READY_S: Final = 60.0


@dataclass(frozen=True)
class Services:
    """Addresses, "host:port", and process ids."""

    registry: str
    queue: str
    registry_pid: int
    queue_pid: int


@contextmanager
def running_services(database_url: str, folder: Path, checkout: Path = ROOT) -> Iterator[Services]:
    """Run a checkout's services, from its own .venv, until the block is left.

    Raises:
        RuntimeError: One does not start; it says what it logged.
    """
    processes: list[subprocess.Popen[bytes]] = []

    def start(name: str, **settings: str) -> str:
        ready, log = folder / f"{name}.address", folder / f"{name}.log"
        settings |= {"DATABASE_URL": database_url, "LISTEN": "127.0.0.1:0", "ADDRESS_FILE": str(ready)}
        environment = os.environ | {f"TOWLINE_{name.upper()}_{key}": value for key, value in settings.items()}
        command = [checkout / ".venv/bin/python", "-m", f"towline_{name}"]
        with log.open("wb") as output:
            process = subprocess.Popen(
                command, env=environment, cwd=checkout, stdout=output, stderr=subprocess.STDOUT
            )
        processes.append(process)
        _wait(process, ready, log)
        return ready.read_text().strip()

    try:
        registry = start("registry", BLOB_URL=(folder / "blobs").as_uri(), SPOOL_DIR=str(folder / "spool"))
        queue = start("queue", REGISTRY_ADDRESS=registry)
        yield Services(registry, queue, *(process.pid for process in processes))
    finally:
        for process in reversed(processes):
            process.terminate()
            process.wait()


def _wait(process: subprocess.Popen[bytes], ready: Path, log: Path) -> None:
    until = time.monotonic() + READY_S
    while not ready.exists():
        if process.poll() is not None or time.monotonic() > until:
            raise RuntimeError(f"the service did not start:\n{log.read_text()}")
        time.sleep(0.05)
