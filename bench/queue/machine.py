"""What was measured on, and with what."""

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from towline_testing.postgres import PostgresServer

__all__ = ["describe"]


def describe(postgres: PostgresServer) -> dict[str, Any]:
    """Name the machine and the versions that all systems share."""
    return {
        "cores": len(os.sched_getaffinity(0)),
        "processor": _field("/proc/cpuinfo", "model name"),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "postgresql": postgres.psql("SHOW server_version"),
        "fsync": postgres.psql("SHOW fsync"),
        "synchronous_commit": postgres.psql("SHOW synchronous_commit"),
        "towline": version("towline"),
    }


def _field(file: str, name: str) -> str:
    for line in Path(file).read_text().splitlines():
        if line.startswith(name):
            return line.partition(":")[2].strip()
    return platform.machine()
