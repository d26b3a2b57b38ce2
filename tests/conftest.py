"""Fixtures that all tests may use: PostgreSQL servers and fresh databases on them."""

import itertools
import os
from collections.abc import Iterator

import hypothesis
import pytest

from towline_testing.postgres import VERSIONS, PostgresServer, running_postgres

# Tests start programs while gRPC runs; its fork handlers crash some of them before they are executed.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"

# Timing never fails a test.
hypothesis.settings.register_profile("towline", deadline=None)
hypothesis.settings.load_profile("towline")

_numbers = itertools.count(1)


@pytest.fixture(scope="session", params=VERSIONS, ids=lambda version: f"postgres{version}")
def postgres(request: pytest.FixtureRequest) -> Iterator[PostgresServer]:
    """One server for the session, of each version in turn."""
    with running_postgres(request.param) as server:
        yield server


@pytest.fixture
def database_url(postgres: PostgresServer) -> Iterator[str]:
    """A fresh, empty database."""
    name = f"test_{next(_numbers)}"
    postgres.psql(f"CREATE DATABASE {name}")
    yield postgres.url(name)
    postgres.psql(f"DROP DATABASE {name} WITH (FORCE)")
