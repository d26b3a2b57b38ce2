"""Fixtures that all tests may use: PostgreSQL servers and fresh databases on them."""

import itertools
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache

import hypothesis
import pytest
import pytest_asyncio

from towline.service.postgres import connecting, migrate
from towline_testing.postgres import EMBEDDED, EMPTY, VERSIONS, PostgresServer, running_postgres

# Tests start programs while gRPC runs; its fork handlers crash some of them before they are executed.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"

# A shell starts background jobs with Ctrl-C ignored, and so are the programs that tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Tests wait for processes, engines and disks half of their time: with one worker a core, cores would idle.
_WORKERS_PER_CORE = 2

# Timing never fails a test.
hypothesis.settings.register_profile("towline", deadline=None)
hypothesis.settings.load_profile("towline")

_numbers = itertools.count(1)


def pytest_xdist_auto_num_workers() -> int:
    """Say what `--numprocesses auto` is."""
    return _WORKERS_PER_CORE * len(os.sched_getaffinity(0))


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep what clients remember of files out of the home of whoever runs the tests."""
    os.environ["TOWLINE_CACHE_DIR"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def postgres_servers() -> Iterator[Callable[[str], PostgresServer]]:
    """Give the session's server of a major version, which starts when it is first asked for."""
    with ExitStack() as running:
        yield cache(lambda version: running.enter_context(running_postgres(version)))


@pytest.fixture(scope="session")
def postgres(
    request: pytest.FixtureRequest, postgres_servers: Callable[[str], PostgresServer]
) -> PostgresServer:
    """One server for the session, of each version in turn: for what sends SQL. See `one_postgres`."""
    return postgres_servers(request.param)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run what is marked `one_postgres` on one version, and all else that needs `postgres` on each."""
    if "postgres" in metafunc.fixturenames:
        versions = (EMBEDDED,) if metafunc.definition.get_closest_marker("one_postgres") else VERSIONS
        ids = [f"postgres{version}" for version in versions]
        metafunc.parametrize("postgres", versions, indirect=True, ids=ids, scope="session")


@pytest.fixture(scope="session")
def embedded_postgres(postgres_servers: Callable[[str], PostgresServer]) -> PostgresServer:
    """One server for the session, of one version: where a test makes databases of its own on it."""
    return postgres_servers(EMBEDDED)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def migrated_url(postgres: PostgresServer) -> str:
    """A database that has every service's schema; `database_url` hands it to one test after another."""
    postgres.psql("DROP DATABASE IF EXISTS migrated WITH (FORCE)")
    postgres.psql("CREATE DATABASE migrated")
    async with connecting(postgres.url("migrated")) as engine:
        for schema in ("queue", "registry"):
            await migrate(engine, schema=schema, scripts=f"towline_{schema}:migrations")
    return postgres.url("migrated")


@pytest.fixture
def database_url(postgres: PostgresServer, migrated_url: str) -> str:
    """A database as a service finds it that starts for the second time: schemas in place, no rows."""
    postgres.psql(EMPTY, database="migrated")
    return migrated_url


@pytest.fixture
def empty_database_url(postgres: PostgresServer) -> Iterator[str]:
    """A fresh database without any schema, for tests of migrations."""
    name = f"test_{next(_numbers)}"
    postgres.psql(f"CREATE DATABASE {name}")
    yield postgres.url(name)
    postgres.psql(f"DROP DATABASE {name} WITH (FORCE)")
