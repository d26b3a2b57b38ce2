"""A registry process that several tests of one file share."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from towline.client import Endpoints
from towline_testing.postgres import PostgresServer
from towline_testing.registry import start_process


@contextmanager
def shared_registry(postgres: PostgresServer, folder: Path) -> Iterator[Endpoints]:
    """Run a registry with a database of its own; nothing answers at the queue's address."""
    database = f"shared_{uuid4().hex[:12]}"
    postgres.psql(f"CREATE DATABASE {database}")
    registry = start_process(postgres.url(database), folder)
    try:
        yield Endpoints(registry=registry.address, queue="127.0.0.1:1")
    finally:
        registry.stop()
        postgres.psql(f"DROP DATABASE {database} WITH (FORCE)")
