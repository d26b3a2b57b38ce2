"""The queue's migrations make what its table definitions say."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncEngine

from towline.service.postgres import connecting, migrate, transaction
from towline.v1 import queues_pb2
from towline_queue.core.lease_ids import AttemptKey
from towline_queue.core.transitions import State
from towline_queue.storage import attempts, upkeep
from towline_queue.storage.database import Database, opening
from towline_queue.storage.run_lists import RunFilter, newest_first
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
            await connection.execute(text("DROP INDEX queue.runs_by_queue"))
            assert len(await connection.run_sync(_differences)) == 2


@dataclass(frozen=True)
class Migrated:
    engine: AsyncEngine
    database: Database

    async def rows(self, query: str) -> list[tuple[object, ...]]:
        async with transaction(self.engine) as connection:
            return [tuple(row) for row in await connection.execute(text(query))]


@asynccontextmanager
async def migrated_from(url: str, revision: str, data: Sequence[str]) -> AsyncIterator[Migrated]:
    """Make the tables of an older version, with data, and bring them to the newest."""
    async with connecting(url) as engine, opening(engine, size=2) as database:
        async with transaction(engine) as connection:
            await connection.execute(text(f"CREATE SCHEMA {SCHEMA}"))
            await connection.run_sync(_upgrade, revision)
            for statement in data:
                await connection.execute(text(statement))
        await migrate(engine, schema=SCHEMA, scripts="towline_queue:migrations")
        yield Migrated(engine, database)


async def test_runs_of_before_are_listed_each_by_itself(empty_database_url: str) -> None:
    runs = (
        "INSERT INTO queue.runs (name, queue, priority, shape, job_version, launch_spec, own_spec)"
        " SELECT 'runs/' || n, 'queues/q', 1, 0, 'jobs/j/versions/v0', 'spec', ''"
        " FROM generate_series(1, 3) AS n"
    )
    spec = "INSERT INTO queue.launch_specs (digest, spec, queue_spec) VALUES ('spec', '', '')"
    waiting = (
        "INSERT INTO queue.ready (queue, shape, priority, seq, run, epoch, number)"
        " SELECT queue, shape, priority, seq, name, 1, 1 FROM queue.runs"
    )
    async with migrated_from(empty_database_url, "0005", [spec, runs, waiting]) as now:
        for wanted in (RunFilter(queue="queues/q"), RunFilter(job="jobs/j")):
            async with transaction(now.engine) as connection:
                page = await newest_first(connection, wanted, before=None, size=9, most_bytes=9999)
            assert [record.name for record in page.records] == ["runs/3", "runs/2", "runs/1"]
        assert await now.rows("SELECT DISTINCT span_size, span_end FROM queue.runs") == [(1, None)]


async def test_leases_of_the_first_version_go_on(empty_database_url: str) -> None:
    """They keep the time that was promised to their agents."""
    patient = queues_pb2.QueueSpec()
    patient.lease_policy.lost_after.FromTimedelta(timedelta(hours=2))
    specs = f"UPDATE queue.queues SET spec = '\\x{patient.SerializeToString().hex()}' WHERE name ~ 'patient'"
    async with migrated_from(empty_database_url, "0001", [*_FIRST_DATA, specs]) as now:
        assert await now.rows("SELECT lost_after FROM queue.queues ORDER BY name") == [
            (timedelta(seconds=120),),
            (timedelta(hours=2),),
        ]
        assert await now.rows("SELECT run, epoch, number, lost_after FROM queue.leases ORDER BY run") == [
            ("runs/a", 1, 1, timedelta(minutes=5)),
            ("runs/b", 2, 2, timedelta(seconds=120)),
        ]
        assert await now.rows("SELECT run, epoch, cause FROM queue.attempts") == [("runs/b", 1, 6)]
        async with now.database.transaction() as opened:
            assert await upkeep.take_back_lost(opened, timedelta(minutes=4)) == []
            (lost,) = await upkeep.take_back_lost(opened, timedelta(minutes=5))
        assert (lost.key, lost.state) == (AttemptKey("runs/a", 1), State.QUEUED)
        async with now.database.transaction() as opened:
            (lost,) = await attempts.lose(opened, [attempts.Lost(AttemptKey("runs/b", 2), "gone")])
        assert lost.state is State.QUEUED
        assert [
            (run, epoch, number, str(detail)[:33])
            for run, epoch, number, detail in await now.rows(
                "SELECT first_run, epoch, number, detail FROM queue.ready ORDER BY first_run"
            )
        ] == [
            ("runs/a", 2, 2, "Tried again (retry 1 of 10 after "),
            ("runs/b", 3, 3, "Tried again (retry 2 of 10 after "),
        ]


async def test_runs_of_every_state_are_carried_over(empty_database_url: str) -> None:
    """From the second version, in which a run's state and epoch stood in its row."""
    async with migrated_from(empty_database_url, "0002", _SECOND_DATA) as now:
        assert await now.rows("SELECT name, seq, state, detail, failure FROM queue.runs ORDER BY name") == [
            ("runs/cancelled", 1, 9, None, b"\x02"),
            ("runs/failed", 2, 8, "Given up after OOM", b"\x01"),
            ("runs/leased", 3, None, None, None),
            ("runs/preempted", 4, None, None, None),
            ("runs/queued", 5, None, None, None),
            ("runs/running", 6, None, None, None),
            ("runs/scheduled", 7, None, None, None),
            ("runs/stopping", 8, None, None, None),
            ("runs/succeeded", 9, 7, None, None),
        ]
        assert await now.rows(
            "SELECT count(*) FROM queue.runs WHERE author = 'a' AND labels = '{\"l\": \"1\"}'"
            " AND variables = '{\"v\": \"2\"}' AND retry_of = 'runs/r' AND outputs = 'o' AND shape = 2"
            " AND priority = 3 AND job_version = 'jobs/j/versions/v0' AND queue = 'queues/q'"
        ) == [(9,)]
        # One lease was given back, and one attempt failed.
        assert await now.rows("SELECT seq, first_run, epoch, number, detail FROM queue.ready") == [
            (5, "runs/queued", 3, 2, "why")
        ]
        assert await now.rows("SELECT run, epoch, number, detail FROM queue.scheduled") == [
            ("runs/scheduled", 1, 1, "")
        ]
        assert await now.rows(
            "SELECT run, epoch, number, state, stop_requested, event_seq, image_id, image_outcome,"
            " start_time IS NOT NULL, accepted, detail FROM queue.leases ORDER BY run"
        ) == [
            ("runs/leased", 1, 1, 3, None, 0, "", 0, False, False, "Handed to agents/a"),
            ("runs/preempted", 1, 1, 5, 2, 4, "sha256:1", 2, True, True, ""),
            ("runs/running", 3, 2, 5, None, 4, "sha256:1", 2, True, True, ""),
            ("runs/stopping", 1, 1, 6, 1, 4, "sha256:1", 2, True, True, ""),
        ]
        assert await now.rows(
            "SELECT run, epoch, outcome, CAST(tableoid AS regclass)::text "
            "FROM queue.attempts ORDER BY run, epoch"
        ) == [
            ("runs/queued", 1, 4, "queue.attempts_2025_12"),
            ("runs/queued", 2, 2, "queue.attempts_2026_01"),
            ("runs/running", 1, 4, "queue.attempts_2025_12"),
            ("runs/running", 2, 2, "queue.attempts_2026_01"),
        ]
        # Whole specs, found as before; what readers of many runs need stands beside the shared part.
        assert await now.rows(
            "SELECT encode(launch_specs.spec || own_spec, 'escape'), encode(queue_spec, 'escape'), max_wait,"
            " encode(retry_policy, 'escape'), count(*) FROM queue.runs"
            " JOIN queue.launch_specs ON launch_specs.digest = launch_spec GROUP BY 1, 2, 3, 4 ORDER BY 1"
        ) == [
            ("runs/limited", "q2", timedelta(minutes=1), "p", 2),
            ("runs/plain", "q1", None, None, 7),
        ]
        assert await now.rows("SELECT count(*) FROM queue.launch_specs") == [(2,)]
        assert await now.rows("SELECT nextval('queue.runs_seq_seq')") == [(9 + 2048,)]
        assert await now.rows("SELECT nspname FROM pg_namespace WHERE nspname LIKE 'queue%'") == [(SCHEMA,)]
        async with now.database.transaction() as opened:
            assert await attempts.accept(opened, [AttemptKey("runs/running", 3)])


async def test_a_replica_of_the_version_before_can_tell_how_attempts_go_on(empty_database_url: str) -> None:
    """Its attempt_progress.sql has all columns of a lease beside these, and reads each by its name alone."""
    own = "takes, seq, told, doing, outcome, image, prepared, started, position, is_news"
    beside = ", ".join(f"0 AS {name}" for name in own.split(", "))
    async with migrated_from(empty_database_url, "0004", ()) as now:
        read = f"SELECT {own} FROM (SELECT {beside}, lease.* FROM queue.leases AS lease) AS current"
        assert await now.rows(read) == []


async def test_names_compare_by_their_bytes_and_tables_keep_room(empty_database_url: str) -> None:
    """What no comparison of definitions sees."""
    async with migrated_from(empty_database_url, "0002", ()) as now:
        collated = {
            (str(relation), str(column))
            for relation, column in await now.rows(
                "SELECT attrelid::regclass::text, attname FROM pg_attribute"
                " WHERE attcollation = (SELECT oid FROM pg_collation WHERE collname = 'C')"
                " AND attrelid::regclass::text LIKE 'queue.%' AND attnum > 0"
            )
        }
        for table in metadata.sorted_tables:
            for column in table.columns:
                if getattr(column.type, "collation", None) == "C":
                    assert (f"queue.{table.name}", column.name) in collated
            fillfactor = (table.dialect_options["postgresql"].get("with") or {}).get("fillfactor")
            ((options,),) = await now.rows(
                f"SELECT reloptions FROM pg_class WHERE oid = CAST('queue.{table.name}' AS regclass)"
            )
            found = [option for option in options or () if option.startswith("fillfactor")]
            assert (table.name, found) == (table.name, [f"fillfactor={fillfactor}"] if fillfactor else [])


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
_SECOND_DATA = (
    """
    INSERT INTO queue.runs (name, state, epoch, state_detail, cancel_requested, preempt_epoch, failure, spec,
        queue_spec, max_wait, retry_policy, queue, priority, shape, job_version, display_name, author, labels,
        variables, retry_of, outputs)
    SELECT name, state, epoch, detail, cancel, preempt, CAST(failure AS bytea), spec, queue_spec, max_wait,
        CAST(policy AS bytea), 'queues/q', 3, 2, 'jobs/j/versions/v0', 'j', 'a', '{"l": "1"}', '{"v": "2"}',
        'runs/r', 'o'
    FROM (VALUES
        ('runs/cancelled', 9, 0, '', true, NULL, '\\x02', false),
        ('runs/failed', 8, 3, 'Given up after OOM', false, NULL, '\\x01', false),
        ('runs/leased', 3, 1, 'Handed to agents/a', false, NULL, NULL, false),
        ('runs/preempted', 5, 1, '', false, 1, NULL, false),
        ('runs/queued', 2, 2, 'why', false, 1, NULL, true),
        ('runs/running', 5, 3, '', false, 2, NULL, false),
        ('runs/scheduled', 1, 0, '', false, NULL, NULL, true),
        ('runs/stopping', 6, 1, '', true, 1, NULL, false),
        ('runs/succeeded', 7, 1, '', true, NULL, NULL, false)
    ) AS run (name, state, epoch, detail, cancel, preempt, failure, limited)
    JOIN (VALUES
        (false, CAST('runs/plain' AS bytea), CAST('q1' AS bytea), CAST(NULL AS interval), NULL),
        (true, 'runs/limited', 'q2', '1 min', 'p')
    ) AS kind (limited, spec, queue_spec, max_wait, policy) USING (limited)
    ORDER BY name
    """,
    "INSERT INTO queue.ready (queue, shape, priority, seq, run) SELECT queue, shape, priority, seq, name"
    " FROM queue.runs WHERE state = 2",
    "INSERT INTO queue.scheduled (run, due_time) VALUES ('runs/scheduled', now() + interval '1 h')",
    "INSERT INTO queue.leases (run, epoch, session, agent, queue, gpu_ids, accepted, lost_after)"
    " SELECT name, epoch, gen_random_uuid(), 'agents/a', queue, '{}', state <> 3, '120 s'"
    " FROM queue.runs WHERE state BETWEEN 3 AND 6",
    "INSERT INTO queue.attempts (run, epoch, agent, gpu_ids) SELECT run, epoch, agent, '{}'"
    " FROM queue.leases WHERE NOT accepted",
    "INSERT INTO queue.attempts (run, epoch, agent, gpu_ids, event_seq, start_time, image_outcome, image_id)"
    " SELECT run, epoch, agent, '{}', 4, now(), 2, 'sha256:1' FROM queue.leases WHERE accepted",
    "INSERT INTO queue.attempts (run, epoch, agent, gpu_ids, lease_time, end_time, outcome)"
    " SELECT run, epoch, 'agents/b', '{}', '2025-12-01 00:00+00', CAST(ended AS timestamptz), outcome"
    " FROM unnest(ARRAY['runs/queued', 'runs/running']) AS run,"
    " (VALUES (1, '2025-12-31 23:59+00', 4), (2, '2026-01-01 00:00+00', 2)) AS past (epoch, ended, outcome)",
)


def _upgrade(connection: Connection, revision: str) -> None:
    config = Config()
    config.set_main_option("script_location", "towline_queue:migrations")
    config.set_main_option("path_separator", "os")
    config.attributes |= {"connection": connection, "schema": SCHEMA}
    command.upgrade(config, revision)


def _compared(name: str | None, kind: str, parents: object) -> bool:
    """Leave out other schemas, and the partitions, which come and go."""
    if kind == "table":
        return name is not None and not name.startswith("attempts_")
    return kind != "schema" or name == SCHEMA


def _differences(connection: Connection) -> list[object]:
    options = {
        "include_schemas": True,
        "include_name": _compared,
        "version_table_schema": SCHEMA,
        "compare_server_default": True,
    }
    context = MigrationContext.configure(connection, opts={"target_metadata": metadata, **options})
    return list(compare_metadata(context, metadata))
