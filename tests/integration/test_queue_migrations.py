"""The queue's migrations make what its table definitions say."""

from datetime import timedelta

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import Connection, text

from towline.service.postgres import connecting, migrate, transaction
from towline.v1 import queues_pb2
from towline_queue.core.lease_ids import AttemptKey
from towline_queue.core.transitions import State
from towline_queue.storage import attempts, upkeep
from towline_queue.storage.tables import SCHEMA, metadata


async def test_migrations_and_definitions_agree(empty_database_url: str) -> None:
    async with connecting(empty_database_url) as engine:
        for _ in range(2):  # the second time there is nothing to do
            await migrate(engine, schema=SCHEMA, scripts="towline_queue:migrations")
        async with engine.connect() as connection:
            assert await connection.run_sync(_differences) == []


async def test_a_difference_would_be_seen(empty_database_url: str) -> None:
    async with connecting(empty_database_url) as engine:
        await migrate(engine, schema=SCHEMA, scripts="towline_queue:migrations")
        async with engine.begin() as connection:
            await connection.execute(text("ALTER TABLE queue.runs DROP COLUMN author"))
            await connection.execute(text("DROP INDEX queue.runs_by_seq"))
            assert len(await connection.run_sync(_differences)) == 2


async def test_live_data_survives(empty_database_url: str) -> None:
    """Leases keep the time that was promised to their agents, and go on."""
    patient = queues_pb2.QueueSpec()
    patient.lease_policy.lost_after.FromTimedelta(timedelta(hours=2))
    async with connecting(empty_database_url) as engine:
        async with transaction(engine) as connection:
            await connection.execute(text(f"CREATE SCHEMA {SCHEMA}"))
            await connection.run_sync(_upgrade, "0001")
            for statement in _FIRST_DATA:
                await connection.execute(text(statement))
            await connection.execute(
                text("UPDATE queue.queues SET spec = :spec WHERE name = 'queues/patient'"),
                {"spec": patient.SerializeToString()},
            )
        await migrate(engine, schema=SCHEMA, scripts="towline_queue:migrations")
        async with transaction(engine) as connection:

            async def column(query: str) -> list[object]:
                return list((await connection.execute(text(query))).scalars())

            assert await column("SELECT lost_after FROM queue.queues ORDER BY name") == [
                timedelta(seconds=120),
                timedelta(hours=2),
            ]
            assert await column("SELECT lost_after FROM queue.leases ORDER BY run") == [
                timedelta(minutes=5),
                timedelta(seconds=120),
            ]
            assert await column("SELECT cause FROM queue.attempts ORDER BY run, epoch") == [0, 6, 0]
            assert await upkeep.take_back_lost(connection, timedelta(minutes=4)) == []
            (lost,) = await upkeep.take_back_lost(connection, timedelta(minutes=5))
            assert (lost.key, lost.state) == (AttemptKey("runs/a", 1), State.QUEUED)
            details = await column("SELECT state_detail FROM queue.runs WHERE name = 'runs/a'")
            assert "retry 1 of 10 after NODE_LOST" in str(details[0])
            (lost,) = await attempts.lose(connection, [attempts.Lost(AttemptKey("runs/b", 2), "gone")])
            assert lost.state is State.QUEUED
            details = await column("SELECT state_detail FROM queue.runs WHERE name = 'runs/b'")
            assert "retry 2 of 10 after NODE_LOST" in str(details[0])


_RUN = (
    "INSERT INTO queue.runs (name, queue, priority, shape, state, epoch, job_version, display_name, spec,"
    " queue_spec) VALUES ('{}', 'queues/default', 3, 0, 5, {}, 'jobs/j/versions/v0', 'j', '', '')"
)
_FIRST_DATA = (
    "INSERT INTO queue.queues (name, spec) VALUES ('queues/default', ''), ('queues/patient', '')",
    "INSERT INTO queue.sessions (id, agent, epoch, seen_time, expires_at, disconnected_after, ttl)"
    " VALUES ('00000000-0000-0000-0000-000000000001', 'agents/one', 1, now() - interval '1 h', now(),"
    " '30 s', '5 min')",
    _RUN.format("runs/a", 1),
    _RUN.format("runs/b", 2),
    "INSERT INTO queue.leases (run, epoch, session, agent, queue, gpu_ids) VALUES"
    " ('runs/a', 1, '00000000-0000-0000-0000-000000000001', 'agents/one', 'queues/default', '{}'),"
    " ('runs/b', 2, '00000000-0000-0000-0000-000000000002', 'agents/two', 'queues/default', '{}')",
    "INSERT INTO queue.attempts (run, epoch, agent, gpu_ids, outcome) VALUES"
    " ('runs/a', 1, 'agents/one', '{}', 0), ('runs/b', 1, 'agents/one', '{}', 5),"
    " ('runs/b', 2, 'agents/two', '{}', 0)",
)


def _upgrade(connection: Connection, revision: str) -> None:
    config = Config()
    config.set_main_option("script_location", "towline_queue:migrations")
    config.set_main_option("path_separator", "os")
    config.attributes |= {"connection": connection, "schema": SCHEMA}
    command.upgrade(config, revision)


def _differences(connection: Connection) -> list[object]:
    options = {
        "include_schemas": True,
        "include_name": lambda name, kind, parents: kind != "schema" or name == SCHEMA,
        "version_table_schema": SCHEMA,
        "compare_server_default": True,
    }
    context = MigrationContext.configure(connection, opts={"target_metadata": metadata, **options})
    return list(compare_metadata(context, metadata))
