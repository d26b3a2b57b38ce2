"""Plans of the statements that everything waits for: by an index, whatever the statistics say."""

from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from towline.service.postgres import SERVER_SETTINGS, connecting, migrate
from towline.v1 import fleet_pb2, logs_pb2, queues_pb2, runs_pb2
from towline_testing.fake_agent import FakeAgent, failed
from towline_testing.lease_world import JOB, LeaseWorld, lease_world
from towline_testing.plans import Plan, Sent, plan, recording
from towline_testing.waiting import eventually_async

# Tables that may have millions of rows; `attempts` stands for its partitions. Leases are as many as slots.
LARGE = ("runs", "ready", "scheduled", "attempts", "log_streams", "log_chunks", "requests")
SCANS = {"Index Scan", "Index Only Scan", "Bitmap Heap Scan"}

# Everything that a run may come across. A name is a file in storage/.
EXPECTED = {
    "insert_run",
    "insert_runs",
    "claim",
    "attempt_progress",
    "attempt_finish",
    "attempt_give_back",
    "session_renew",
}

FILL = """
INSERT INTO queue.queues (name, spec, lost_after) VALUES ('queues/default', '', interval '1 min');
INSERT INTO queue.launch_specs (digest, spec, queue_spec) VALUES ('\\x01', '', '\\x02');
INSERT INTO queue.runs (
    name, seq, queue, priority, shape, job_version, launch_spec, own_spec, state, end_time
)
OVERRIDING SYSTEM VALUE
SELECT 'runs/' || lpad(CAST(n AS text), 18, '0'), n,
       'queues/' || CASE n % 4 WHEN 0 THEN 'other' ELSE 'default' END,
       1 + n % 4, n % 3, 'jobs/work/versions/v' || n % 5, '\\x01', '',
       CASE WHEN n <= 20000 THEN 7 END, CASE WHEN n <= 20000 THEN now() END
FROM generate_series(1, 50000) AS n;
INSERT INTO queue.ready (queue, shape, priority, seq, first_run, epoch, number)
SELECT queue, shape, priority, seq, name, 1, 1 FROM queue.runs WHERE seq BETWEEN 20001 AND 46000;
INSERT INTO queue.leases (run, epoch, number, session, agent, queue, gpu_ids, lost_after, state)
SELECT name, 1, 1, gen_random_uuid(), 'agents/' || seq % 100, queue, '{}', interval '1 min', 5
FROM queue.runs WHERE seq BETWEEN 46001 AND 48000;
INSERT INTO queue.scheduled (run, due_time, epoch, number)
SELECT name, now() + interval '1 h', 1, 1 FROM queue.runs WHERE seq > 48000;
INSERT INTO queue.attempts (run, epoch, agent, gpu_ids, lease_time, image_outcome, image_id, outcome)
SELECT name, 1, 'agents/1', '{}', now(), 1, '', 1 FROM queue.runs WHERE state IS NOT NULL;
INSERT INTO queue.sessions (id, agent, epoch, seen_time, disconnected_after)
SELECT gen_random_uuid(), 'agents/' || n, 1, now(), interval '1 min' FROM generate_series(1, 100) AS n;
INSERT INTO queue.log_streams SELECT name, 1, 1, 1 FROM queue.runs WHERE seq <= 20000;
INSERT INTO queue.log_chunks SELECT name, 1, 1, 0, 'x' FROM queue.runs WHERE seq <= 20000;
"""


@pytest.fixture
async def world(database_url: str, tmp_path: Path) -> AsyncIterator[LeaseWorld]:
    async with lease_world(database_url, tmp_path) as world:
        yield world


async def live_through_much(world: LeaseWorld) -> None:
    """Have the service send each of its statements about runs at least once."""
    agent, service = FakeAgent(slots=8), world.service
    async with agent.connected(service.channel) as session:
        await session.beat()
        names = await world.submit_many(6)
        grants = [await session.next_accepted() for _ in names]
        for grant in grants:
            await session.event(grant, 1, runs_pb2.RUN_STATE_RUNNING)
        await session.beat()
        await session.finish(grants[0])
        await session.finish(grants[1], failed())
        await session.release(grants[2])
        await world.cancel(grants[3].spec.run)
        await session.until(lambda: session.cancels)
        request = logs_pb2.AppendLogsRequest(
            run=grants[4].spec.run, epoch=grants[4].epoch, stream=logs_pb2.LOG_STREAM_OUTPUT, data=b"x"
        )
        assert [answer async for answer in service.logs.AppendLogs(iter([request]))]
        tail = logs_pb2.TailLogsRequest(run=grants[4].spec.run)
        assert [part async for part in service.logs.TailLogs(tail)]
    await world.cancel(await world.submit())
    for name in names:
        await world.get(name)
    for wanted in (
        {},
        {"queue": "queues/default"},
        {"job": "jobs/work"},
        {"job": JOB},
        {"states": [runs_pb2.RUN_STATE_RUNNING, runs_pb2.RUN_STATE_QUEUED, runs_pb2.RUN_STATE_SCHEDULED]},
        {"states": [runs_pb2.RUN_STATE_FAILED]},
        {"states": [runs_pb2.RUN_STATE_FAILED, runs_pb2.RUN_STATE_QUEUED]},
        {"author": "ann", "labels": {"a": "b"}},
    ):
        await service.runs.ListRuns(runs_pb2.ListRunsRequest(filter=runs_pb2.RunFilter(**wanted)))
    await service.queues.ListQueues(queues_pb2.ListQueuesRequest())
    await service.fleet.ListAgents(fleet_pb2.ListAgentsRequest())


def complaints(sent: Sent, found: Plan) -> list[str]:
    """Say what in a plan would take longer with more rows."""
    bad = []
    for node, above in found.nodes:
        table = node.get("Relation Name", "")
        table = "attempts" if table.startswith("attempts") else table
        if table not in LARGE or node["Node Type"] in ("ModifyTable", "Tid Scan"):
            continue
        bounded = any(parent["Node Type"] == "Limit" for parent in above)
        by_index = node["Node Type"] in SCANS and (
            "Index Cond" in node or any("Index Cond" in child for child in node.get("Plans", ()))
        )
        if not by_index and not bounded:
            bad.append(f"{sent.name or sent.text}: {node['Node Type']} of all of {table}")
    return bad


@pytest.mark.parametrize("filled", [False, True], ids=["statistics of empty tables", "of filled ones"])
async def test_no_statement_reads_a_large_table_from_end_to_end(
    world: LeaseWorld, empty_database_url: str, monkeypatch: pytest.MonkeyPatch, filled: bool
) -> None:
    with recording(monkeypatch) as recorded:
        await live_through_much(world)
    by_text = {sent.text: sent for sent in recorded if sent.planned}
    assert {sent.name for sent in by_text.values()} >= EXPECTED

    async with connecting(empty_database_url) as engine:
        await migrate(engine, schema="queue", scripts="towline_queue:migrations")
    connection = await asyncpg.connect(empty_database_url, server_settings=SERVER_SETTINGS)
    try:
        if filled:
            await connection.execute(FILL)
        await connection.execute("VACUUM ANALYZE")
        bad = []
        for sent in by_text.values():
            for generic in (True, False):
                bad += complaints(sent, await plan(connection, sent, generic=generic))
        assert not bad, "\n".join(sorted(set(bad)))
    finally:
        await connection.close()


BACKLOG = """
INSERT INTO queue.runs (name, queue, priority, shape, job_version, launch_spec, own_spec)
SELECT 'runs/z' || n, queue, priority, shape, job_version, launch_spec, own_spec
FROM (SELECT * FROM queue.runs LIMIT 1) AS run CROSS JOIN generate_series(1, 200000) AS n
ORDER BY n;
"""
WAIT = """
INSERT INTO queue.ready (queue, shape, priority, seq, first_run, epoch, number)
SELECT queue, shape, priority, seq, name, 1, 1 FROM queue.runs WHERE name LIKE 'runs/z%' ORDER BY seq
OFFSET {first} LIMIT {most}
"""


async def test_a_claim_reads_as_much_of_a_deep_queue_as_of_a_shallow_one(
    world: LeaseWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = FakeAgent(slots=64)
    connection = await asyncpg.connect(world.database_url, server_settings=SERVER_SETTINGS)
    try:
        async with agent.connected(world.service.channel) as session:
            with recording(monkeypatch) as recorded:
                await session.beat()
                await world.submit()
                await session.next_accepted()
                await session.beat(free_slots=0)
            claim = next(sent for sent in reversed(recorded) if sent.name == "claim")
            await connection.execute(BACKLOG)
            await connection.execute(WAIT.format(first=0, most=1000))
            await connection.execute("VACUUM ANALYZE queue.runs, queue.ready")
            shallow = await plan(connection, claim, analyze=True)
            await connection.execute(WAIT.format(first=1000, most=199_000))
            await connection.execute("VACUUM ANALYZE queue.ready")
            deep = await plan(connection, claim, analyze=True)
            assert deep.indexes("ready") == {"ready_pkey"}
            assert not {"Sort", "Incremental Sort"} & deep.between("ready", "Limit")
            assert shallow.buffers > 20
            assert deep.buffers <= 1.2 * shallow.buffers
    finally:
        await connection.close()


async def test_progress_and_ends_leave_the_indexes_alone(world: LeaseWorld) -> None:
    await world.sql("SELECT pg_stat_reset()")  # other tests had this database before
    count = 200
    agent = FakeAgent(slots=count)
    async with agent.connected(world.service.channel) as session:
        await session.beat()
        await world.submit_many(count)
        for _ in range(count):
            grant = await session.next_accepted()
            await session.event(grant, 1, runs_pb2.RUN_STATE_RUNNING)
            await session.finish(grant)

    async def updates(table: str) -> tuple[int, int] | None:
        """Return how many there were and how many of them were HOT, once they have been counted."""
        counts = "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relid = CAST($1 AS regclass)"
        (row,) = await world.sql(counts, f"queue.{table}")
        return (row[0], row[1]) if row[0] >= count else None

    for table in ("runs", "leases"):
        told = await eventually_async(lambda table=table: updates(table))
        assert told is not None
        assert told[1] >= 0.95 * told[0], (table, told)
