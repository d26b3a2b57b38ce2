"""The queue's migrations make what its table definitions say."""

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, text

from towline.service.postgres import connecting, migrate
from towline_queue.storage.tables import SCHEMA, metadata


async def test_migrations_and_definitions_agree(database_url: str) -> None:
    async with connecting(database_url) as engine:
        for _ in range(2):  # the second time there is nothing to do
            await migrate(engine, schema=SCHEMA, scripts="towline_queue:migrations")
        async with engine.connect() as connection:
            assert await connection.run_sync(_differences) == []


async def test_a_difference_would_be_seen(database_url: str) -> None:
    async with connecting(database_url) as engine:
        await migrate(engine, schema=SCHEMA, scripts="towline_queue:migrations")
        async with engine.begin() as connection:
            await connection.execute(text("ALTER TABLE queue.runs DROP COLUMN author"))
            await connection.execute(text("DROP INDEX queue.runs_by_seq"))
            assert len(await connection.run_sync(_differences)) == 2


def _differences(connection: Connection) -> list[object]:
    options = {
        "include_schemas": True,
        "include_name": lambda name, kind, parents: kind != "schema" or name == SCHEMA,
        "version_table_schema": SCHEMA,
        "compare_server_default": True,
    }
    context = MigrationContext.configure(connection, opts={"target_metadata": metadata, **options})
    return list(compare_metadata(context, metadata))
