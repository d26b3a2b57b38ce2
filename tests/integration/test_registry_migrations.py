"""The migrations of the schema `registry` and the definitions of its tables."""

import asyncio
from typing import Any

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import text

from towline.service.postgres import connecting, migrate, transaction
from towline_registry.storage.tables import SCHEMA, metadata

SCRIPTS = "towline_registry:migrations"


def differences(connection: Any) -> list[Any]:
    def ours(name: str | None, kind: str, _: object) -> bool:
        return kind != "schema" or name == SCHEMA

    options = {
        "include_schemas": True,
        "include_name": ours,
        "version_table_schema": SCHEMA,
        "compare_type": True,
        "compare_server_default": True,
    }
    return compare_metadata(MigrationContext.configure(connection, opts=options), metadata)


async def test_migrations_make_the_tables_as_defined(empty_database_url: str) -> None:
    async with connecting(empty_database_url) as engine:
        await migrate(engine, schema=SCHEMA, scripts=SCRIPTS)
        async with transaction(engine) as connection:
            assert await connection.run_sync(differences) == []
            await connection.execute(text("ALTER TABLE registry.blobs ADD COLUMN extra text"))
            assert await connection.run_sync(differences), "the comparison sees what differs"


async def test_replicas_that_start_together_take_turns(empty_database_url: str) -> None:
    async with connecting(empty_database_url) as engine:
        async with asyncio.TaskGroup() as group:
            for _ in range(6):
                group.create_task(migrate(engine, schema=SCHEMA, scripts=SCRIPTS))
        async with transaction(engine) as connection:
            versions = await connection.scalars(text("SELECT version_num FROM registry.alembic_version"))
            assert len(versions.all()) == 1
            public = await connection.scalars(
                text("SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace")
            )
            assert public.all() == [], "nothing outside the service's own schema"
