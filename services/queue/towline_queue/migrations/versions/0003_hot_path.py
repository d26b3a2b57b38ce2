"""Where a run is, is its state: `runs` is written twice; attempts are partitioned by month; specs are shared.

The tables on the hot path are made anew and filled from the old ones, which are set aside meanwhile. That
leaves no dead rows behind, and names that are compared byte by byte.
"""

from collections.abc import Mapping
from datetime import UTC, datetime

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_REMADE = ("runs", "ready", "scheduled", "leases", "attempts")
_MONTHS_AHEAD = 2

# Rows of these live for seconds: a vacuum that waits for a share of a table, or between pages, finds it
# many times its size, and every scan reads the dead rows.
_SHORT_LIVED = {
    "autovacuum_vacuum_scale_factor": 0,
    "autovacuum_vacuum_threshold": 2000,
    "autovacuum_vacuum_insert_threshold": -1,
    "autovacuum_vacuum_cost_delay": 0,
}
# The second write of a row is a HOT update, whose dead row the next reader of the page clears away. What is
# left to a vacuum is to mark pages visible and frozen, soon after they were filled, so that the vacuum
# against wraparound does not meet all of a large table at once.
_GROWING = {"autovacuum_vacuum_insert_scale_factor": 0.05, "autovacuum_vacuum_cost_delay": 0}
# Never changed: a page is frozen the first time that a vacuum sees it, and never read by one again.
_APPEND_ONLY = {
    "autovacuum_vacuum_insert_scale_factor": 0,
    "autovacuum_vacuum_insert_threshold": 50000,
    "autovacuum_freeze_min_age": 0,
}


_VIEWS = (
    # What runs of old share without knowing it; their own specs stay whole.
    """
    CREATE VIEW queue_0002.shared AS
    SELECT name AS run, queue_spec, max_wait, retry_policy,
           sha256(convert_to(concat_ws('/', encode(queue_spec, 'hex'),
                                       coalesce(CAST(max_wait AS text), '-'),
                                       coalesce(encode(retry_policy, 'hex'), '-')), 'UTF8')) AS digest
    FROM queue_0002.runs
    """,
    # The epoch of a run's next lease, and the number of its next attempt: one RELEASED (4) does not count.
    """
    CREATE VIEW queue_0002.next AS
    SELECT name AS run, epoch + 1 AS epoch, state_detail AS detail, state,
           1 + (SELECT count(*) FROM queue_0002.attempts
                WHERE attempts.run = runs.name AND attempts.outcome <> 4) AS number
    FROM queue_0002.runs
    """,
    # Attempts that have ended, by their own word or because no lease is theirs.
    """
    CREATE VIEW queue_0002.over AS
    SELECT *, coalesce(end_time, lease_time) AS ended FROM queue_0002.attempts
    WHERE NOT EXISTS (
        SELECT FROM queue_0002.leases WHERE leases.run = attempts.run AND leases.epoch = attempts.epoch)
    """,
)


def upgrade() -> None:
    """Make the new tables and carry everything over."""
    # A schema of its own lets the old tables, their indexes and their sequence keep their names.
    op.execute("CREATE SCHEMA queue_0002")
    for table in _REMADE:
        op.execute(f"ALTER TABLE queue.{table} SET SCHEMA queue_0002")
    for view in _VIEWS:
        op.execute(view)
    _byte_order()
    _launch_specs()
    _runs()
    _waiting()
    _leases()
    _attempts()
    op.execute("DROP SCHEMA queue_0002 CASCADE")
    _storage("sessions", _SHORT_LIVED)


def _name(column: str, comment: str | None = None) -> "sa.Column[str]":
    return sa.Column(column, sa.Text(collation="C"), nullable=False, comment=comment)


def _time(column: str, comment: str | None = None) -> "sa.Column[datetime]":
    return sa.Column(column, sa.DateTime(timezone=True), nullable=True, comment=comment)


def _time_now(column: str, comment: str | None = None) -> "sa.Column[datetime]":
    return sa.Column(
        column,
        sa.DateTime(timezone=True),
        server_default=sa.text("now()"),
        nullable=False,
        comment=comment,
    )


def _text(column: str, comment: str | None = None) -> "sa.Column[str]":
    return sa.Column(column, sa.Text(), server_default="", nullable=False, comment=comment)


def _storage(table: str, settings: Mapping[str, float]) -> None:
    told = ", ".join(f"{name} = {value}" for name, value in settings.items())
    op.execute(f"ALTER TABLE queue.{table} SET ({told})")


def _byte_order() -> None:
    for table, column in (("queues", "name"), ("agents", "name"), ("sessions", "agent")):
        op.execute(f'ALTER TABLE queue.{table} ALTER COLUMN {column} TYPE text COLLATE "C"')


def _launch_specs() -> None:
    op.create_table(
        "launch_specs",
        sa.Column("digest", sa.LargeBinary(), nullable=False, comment="sha256, see storage.launch_specs"),
        sa.Column(
            "spec", sa.LargeBinary(), nullable=False, comment="towline.v1.LaunchSpec, the shared fields"
        ),
        sa.Column("queue_spec", sa.LargeBinary(), nullable=False, comment="digest in queue_specs"),
        sa.Column(
            "max_wait",
            sa.Interval(),
            nullable=True,
            comment="how long a run may wait for an agent; null: no limit",
        ),
        sa.Column(
            "retry_policy",
            sa.LargeBinary(),
            nullable=True,
            comment="towline.v1.RetryPolicy; null: the defaults",
        ),
        sa.PrimaryKeyConstraint("digest"),
        schema="queue",
    )
    op.execute(
        "INSERT INTO queue.launch_specs (digest, spec, queue_spec, max_wait, retry_policy) "
        "SELECT DISTINCT ON (digest) digest, CAST('' AS bytea), queue_spec, max_wait, retry_policy "
        "FROM queue_0002.shared"
    )


def _runs() -> None:
    op.create_table(
        "runs",
        _name("name", "runs/{run}; ids sort by time"),
        sa.Column(
            "seq", sa.BigInteger(), sa.Identity(always=True), nullable=False, comment="order of submission"
        ),
        _name("queue"),
        sa.Column("priority", sa.SmallInteger(), nullable=False, comment="towline.v1.Priority"),
        sa.Column("shape", sa.SmallInteger(), nullable=False, comment="GPUs of one attempt"),
        _name("job_version"),
        _text("author"),
        sa.Column("labels", postgresql.JSONB(), server_default=sa.text("'{}'"), nullable=False),
        sa.Column(
            "variables",
            postgresql.JSONB(),
            server_default=sa.text("'{}'"),
            nullable=False,
            comment="name → JSON text",
        ),
        sa.Column("launch_spec", sa.LargeBinary(), nullable=False, comment="digest in launch_specs"),
        sa.Column(
            "own_spec",
            sa.LargeBinary(),
            nullable=False,
            comment="towline.v1.LaunchSpec, the run's own fields",
        ),
        _text("retry_of"),
        _time_now("create_time"),
        sa.Column(
            "state", sa.SmallInteger(), nullable=True, comment="towline.v1.RunState; null: it has not ended"
        ),
        sa.Column(
            "detail",
            sa.Text(),
            nullable=True,
            comment="how it came to its end, for people; null: nothing to tell",
        ),
        sa.Column("failure", sa.LargeBinary(), nullable=True, comment="towline.v1.Failure"),
        _text("outputs"),
        _time("end_time"),
        sa.PrimaryKeyConstraint("name"),
        schema="queue",
        postgresql_with={"fillfactor": 50},
    )
    # Those that have ended: SUCCEEDED, FAILED, CANCELLED.
    op.execute("""
        INSERT INTO queue.runs (name, seq, queue, priority, shape, job_version, author, labels, variables,
            launch_spec, own_spec, retry_of, create_time, state, detail, failure, outputs, end_time)
        OVERRIDING SYSTEM VALUE
        SELECT name, seq, queue, priority, shape, job_version, author, labels, variables,
            shared.digest, spec, retry_of, create_time,
            CASE WHEN state IN (7, 8, 9) THEN state END,
            CASE WHEN state IN (7, 8, 9) THEN nullif(state_detail, '') END,
            failure, outputs, end_time
        FROM queue_0002.runs JOIN queue_0002.shared ON shared.run = runs.name ORDER BY seq
    """)
    op.execute(
        "SELECT setval(pg_get_serial_sequence('queue.runs', 'seq'), max(seq)) FROM queue_0002.runs "
        "HAVING max(seq) IS NOT NULL"
    )
    op.create_index("runs_by_queue", "runs", ["queue", "name"], schema="queue")
    op.create_index("runs_by_job_version", "runs", ["job_version", "name"], schema="queue")
    _storage("runs", _GROWING)


def _waiting() -> None:
    op.create_table(
        "ready",
        _name("queue"),
        sa.Column("shape", sa.SmallInteger(), nullable=False),
        sa.Column("priority", sa.SmallInteger(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        _name("run"),
        sa.Column("epoch", sa.BigInteger(), nullable=False, comment="of the next lease"),
        sa.Column("number", sa.Integer(), nullable=False, comment="of the next attempt, from 1"),
        _text("detail", "why it waits again"),
        _time_now("ready_time", "waits since"),
        _time("expire_time", "when it has waited for too long; null: never"),
        sa.PrimaryKeyConstraint("queue", "shape", "priority", "seq"),
        schema="queue",
    )
    op.execute("""
        INSERT INTO queue.ready (queue, shape, priority, seq, run, epoch, number, detail, ready_time,
            expire_time)
        SELECT ready.queue, ready.shape, ready.priority, ready.seq, ready.run, next.epoch, next.number,
            next.detail, ready.ready_time, ready.expire_time
        FROM queue_0002.ready JOIN queue_0002.next ON next.run = ready.run
        WHERE next.state = 2 -- QUEUED
    """)
    op.create_index(
        "ready_by_expire_time",
        "ready",
        ["expire_time"],
        schema="queue",
        postgresql_where=sa.text("expire_time IS NOT NULL"),
    )
    _storage("ready", _SHORT_LIVED)
    op.create_table(
        "scheduled",
        _name("run"),
        sa.Column("due_time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False, comment="of the next lease"),
        sa.Column("number", sa.Integer(), nullable=False, comment="of the next attempt, from 1"),
        _text("detail", "why it waits again"),
        sa.PrimaryKeyConstraint("run"),
        schema="queue",
    )
    op.execute("""
        INSERT INTO queue.scheduled (run, due_time, epoch, number, detail)
        SELECT scheduled.run, scheduled.due_time, next.epoch, next.number, next.detail
        FROM queue_0002.scheduled JOIN queue_0002.next ON next.run = scheduled.run
        WHERE next.state = 1 -- SCHEDULED
    """)
    op.create_index(op.f("ix_queue_scheduled_due_time"), "scheduled", ["due_time"], schema="queue")


def _leases() -> None:
    op.create_table(
        "leases",
        _name("run"),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False, comment="of the attempt, from 1"),
        sa.Column("session", sa.Uuid(), nullable=False),
        _name("agent"),
        _name("queue"),
        sa.Column("gpu_ids", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("accepted", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column(
            "lost_after",
            sa.Interval(),
            nullable=False,
            comment="how long a renewal of the session holds it",
        ),
        _time_now("grant_time"),
        sa.Column("state", sa.SmallInteger(), nullable=False, comment="towline.v1.RunState"),
        _text("detail", "what goes on, for people"),
        sa.Column("event_seq", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        _time("prepare_time"),
        _time("start_time"),
        sa.Column("image_outcome", sa.SmallInteger(), server_default=sa.text("0"), nullable=False),
        _text("image_id"),
        sa.Column(
            "stop_requested",
            sa.SmallInteger(),
            nullable=True,
            comment="towline.v1.StopReason; null: go on",
        ),
        sa.PrimaryKeyConstraint("run"),
        schema="queue",
        postgresql_with={"fillfactor": 50},
    )
    # A cancel (1) counts before a preemption (2), which is void for any other attempt.
    op.execute("""
        INSERT INTO queue.leases (run, epoch, number, session, agent, queue, gpu_ids, accepted, lost_after,
            grant_time, state, detail, event_seq, prepare_time, start_time, image_outcome, image_id,
            stop_requested)
        SELECT leases.run, leases.epoch,
            1 + (SELECT count(*) FROM queue_0002.over WHERE over.run = leases.run AND over.outcome <> 4),
            leases.session, leases.agent, leases.queue, leases.gpu_ids, leases.accepted, leases.lost_after,
            leases.grant_time, runs.state, runs.state_detail, coalesce(attempts.event_seq, 0),
            attempts.prepare_time, attempts.start_time, coalesce(attempts.image_outcome, 0),
            coalesce(attempts.image_id, ''),
            CASE WHEN runs.cancel_requested THEN 1 WHEN runs.preempt_epoch = leases.epoch THEN 2 END
        FROM queue_0002.leases
        JOIN queue_0002.runs ON runs.name = leases.run AND runs.epoch = leases.epoch
        LEFT JOIN queue_0002.attempts ON attempts.run = leases.run AND attempts.epoch = leases.epoch
    """)
    op.create_index(op.f("ix_queue_leases_agent"), "leases", ["agent"], schema="queue")
    _storage("leases", _SHORT_LIVED)


def _attempts() -> None:
    op.create_table(
        "attempts",
        _name("run"),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        _name("agent"),
        sa.Column("gpu_ids", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("lease_time", sa.DateTime(timezone=True), nullable=False),
        _time("prepare_time"),
        _time("start_time"),
        _time_now("end_time"),
        sa.Column("image_outcome", sa.SmallInteger(), nullable=False),
        sa.Column("image_id", sa.Text(), nullable=False),
        sa.Column("outcome", sa.SmallInteger(), nullable=False),
        sa.Column("finish_id", sa.Uuid(), nullable=True, comment="tells a repeated result from a stale one"),
        sa.Column("exit_code", sa.Integer(), nullable=True),
        sa.Column("failure", sa.LargeBinary(), nullable=True, comment="towline.v1.Failure"),
        sa.Column(
            "cause", sa.SmallInteger(), server_default=sa.text("0"), nullable=False, comment="of the failure"
        ),
        _text("outputs"),
        sa.PrimaryKeyConstraint("run", "epoch", "end_time"),
        schema="queue",
        postgresql_partition_by="RANGE (end_time)",
    )
    now = datetime.now(UTC)
    months = {_month(now.year, now.month + ahead) for ahead in range(_MONTHS_AHEAD + 1)}
    ended = op.get_bind().execute(
        sa.text("SELECT DISTINCT date_trunc('month', ended AT TIME ZONE 'UTC') FROM queue_0002.over")
    )
    months |= {_month(month.year, month.month) for month in ended.scalars()}
    told = ", ".join(f"{name} = {value}" for name, value in _APPEND_ONLY.items())
    for year, month in sorted(months):
        after, next_month = _month(year, month + 1)
        op.execute(
            f"CREATE TABLE queue.attempts_{year}_{month:02} PARTITION OF queue.attempts "
            f"FOR VALUES FROM ('{year}-{month:02}-01 00:00+00') TO ('{after}-{next_month:02}-01 00:00+00') "
            f"WITH ({told})"
        )
    op.execute(f"CREATE TABLE queue.attempts_default PARTITION OF queue.attempts DEFAULT WITH ({told})")
    op.execute("""
        INSERT INTO queue.attempts (run, epoch, agent, gpu_ids, lease_time, prepare_time, start_time,
            end_time, image_outcome, image_id, outcome, finish_id, exit_code, failure, cause, outputs)
        SELECT run, epoch, agent, gpu_ids, lease_time, prepare_time, start_time,
            ended, image_outcome, image_id, outcome, finish_id, exit_code, failure, cause, outputs
        FROM queue_0002.over
    """)


def _month(year: int, month: int) -> tuple[int, int]:
    """Return a year and a month from 1 to 12, where `month` may be past the year's end."""
    return year + (month - 1) // 12, (month - 1) % 12 + 1
