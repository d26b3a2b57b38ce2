"""The first schema."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make all tables."""
    op.create_table(
        "agents",
        sa.Column("name", sa.Text(), nullable=False, comment="agents/{agent}"),
        sa.Column("instance_id", sa.Text(), nullable=False),
        sa.Column("boot_id", sa.Text(), nullable=False),
        sa.Column("hostname", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("queues", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("capacity", sa.LargeBinary(), nullable=False, comment="towline.v1.Capacity"),
        sa.Column("gpus", postgresql.ARRAY(sa.LargeBinary()), nullable=False, comment="towline.v1.Gpu each"),
        sa.Column("labels", postgresql.JSONB(), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("draining", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("session_epoch", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column(
            "session", sa.Uuid(), nullable=True, comment="the current session; none after an orderly leave"
        ),
        sa.PrimaryKeyConstraint("name"),
        schema="queue",
    )
    op.create_table(
        "attempts",
        sa.Column("run", sa.Text(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("agent", sa.Text(), nullable=False),
        sa.Column("gpu_ids", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("event_seq", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("lease_time", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("prepare_time", sa.DateTime(timezone=True), nullable=True),
        sa.Column("start_time", sa.DateTime(timezone=True), nullable=True),
        sa.Column("end_time", sa.DateTime(timezone=True), nullable=True),
        sa.Column("image_outcome", sa.SmallInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("image_id", sa.Text(), server_default="", nullable=False),
        sa.Column("outcome", sa.SmallInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("finish_id", sa.Uuid(), nullable=True, comment="tells a repeated result from a stale one"),
        sa.Column("exit_code", sa.Integer(), nullable=True),
        sa.Column("failure", sa.LargeBinary(), nullable=True, comment="towline.v1.Failure"),
        sa.PrimaryKeyConstraint("run", "epoch"),
        schema="queue",
    )
    op.create_table(
        "leases",
        sa.Column("run", sa.Text(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("session", sa.Uuid(), nullable=False),
        sa.Column("agent", sa.Text(), nullable=False),
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("gpu_ids", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("accepted", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("grant_time", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("run"),
        schema="queue",
    )
    op.create_index(op.f("ix_queue_leases_agent"), "leases", ["agent"], unique=False, schema="queue")
    op.create_table(
        "log_chunks",
        sa.Column("run", sa.Text(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("stream", sa.SmallInteger(), nullable=False),
        sa.Column("start", sa.BigInteger(), nullable=False, comment="offset of the first byte"),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("run", "epoch", "stream", "start"),
        schema="queue",
    )
    op.create_table(
        "log_streams",
        sa.Column("run", sa.Text(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("stream", sa.SmallInteger(), nullable=False, comment="towline.v1.LogStream"),
        sa.Column("size", sa.BigInteger(), nullable=False, comment="bytes; the next offset"),
        sa.PrimaryKeyConstraint("run", "epoch", "stream"),
        schema="queue",
    )
    op.create_table(
        "queue_specs",
        sa.Column("digest", sa.LargeBinary(), nullable=False, comment="sha256 of `spec`"),
        sa.Column("spec", sa.LargeBinary(), nullable=False, comment="towline.v1.QueueSpec"),
        sa.PrimaryKeyConstraint("digest"),
        schema="queue",
    )
    op.create_table(
        "queues",
        sa.Column("name", sa.Text(), nullable=False, comment="queues/{queue}"),
        sa.Column("spec", sa.LargeBinary(), nullable=False, comment="towline.v1.QueueSpec"),
        sa.Column("paused", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column(
            "revision", sa.BigInteger(), server_default=sa.text("1"), nullable=False, comment="the etag"
        ),
        sa.Column("create_time", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("name"),
        schema="queue",
    )
    op.create_table(
        "ready",
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("shape", sa.SmallInteger(), nullable=False),
        sa.Column("priority", sa.SmallInteger(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("run", sa.Text(), nullable=False),
        sa.Column(
            "ready_time",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="waits since",
        ),
        sa.PrimaryKeyConstraint("queue", "shape", "priority", "seq"),
        sa.UniqueConstraint("run"),
        schema="queue",
    )
    op.create_table(
        "requests",
        sa.Column("method", sa.Text(), nullable=False),
        sa.Column("request_id", sa.Uuid(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False, comment="sha256 of the request"),
        sa.Column("response", sa.LargeBinary(), nullable=False),
        sa.Column("create_time", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("method", "request_id"),
        schema="queue",
    )
    op.create_table(
        "runs",
        sa.Column("name", sa.Text(), nullable=False, comment="runs/{run}; ids sort by time"),
        sa.Column(
            "seq", sa.BigInteger(), sa.Identity(always=True), nullable=False, comment="order of submission"
        ),
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("priority", sa.SmallInteger(), nullable=False, comment="towline.v1.Priority"),
        sa.Column("shape", sa.SmallInteger(), nullable=False, comment="GPUs of one attempt"),
        sa.Column("state", sa.SmallInteger(), nullable=False, comment="towline.v1.RunState"),
        sa.Column(
            "epoch",
            sa.BigInteger(),
            server_default=sa.text("0"),
            nullable=False,
            comment="of the newest lease",
        ),
        sa.Column("cancel_requested", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("state_detail", sa.Text(), server_default="", nullable=False),
        sa.Column("job_version", sa.Text(), nullable=False),
        sa.Column("display_name", sa.Text(), nullable=False),
        sa.Column("author", sa.Text(), server_default="", nullable=False),
        sa.Column("labels", postgresql.JSONB(), server_default=sa.text("'{}'"), nullable=False),
        sa.Column(
            "variables",
            postgresql.JSONB(),
            server_default=sa.text("'{}'"),
            nullable=False,
            comment="name → JSON text",
        ),
        sa.Column("spec", sa.LargeBinary(), nullable=False, comment="towline.v1.LaunchSpec"),
        sa.Column("queue_spec", sa.LargeBinary(), nullable=False, comment="digest in queue_specs"),
        sa.Column("failure", sa.LargeBinary(), nullable=True, comment="towline.v1.Failure"),
        sa.Column("outputs", sa.Text(), server_default="", nullable=False),
        sa.Column("retry_of", sa.Text(), server_default="", nullable=False),
        sa.Column("create_time", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("end_time", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("name"),
        schema="queue",
    )
    op.create_index("runs_by_job_version", "runs", ["job_version", "seq"], unique=False, schema="queue")
    op.create_index("runs_by_queue_state", "runs", ["queue", "state"], unique=False, schema="queue")
    op.create_index("runs_by_seq", "runs", ["seq"], unique=True, schema="queue")
    op.create_table(
        "scheduled",
        sa.Column("run", sa.Text(), nullable=False),
        sa.Column("due_time", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("run"),
        schema="queue",
    )
    op.create_index(
        op.f("ix_queue_scheduled_due_time"), "scheduled", ["due_time"], unique=False, schema="queue"
    )
    op.create_table(
        "sessions",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("agent", sa.Text(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("seen_time", sa.DateTime(timezone=True), nullable=False, comment="last committed renewal"),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column(
            "disconnected_after",
            sa.Interval(),
            nullable=False,
            comment="silence until it counts as unreachable",
        ),
        sa.Column("ttl", sa.Interval(), nullable=False, comment="how long a renewal holds"),
        sa.PrimaryKeyConstraint("id"),
        schema="queue",
        postgresql_with={"fillfactor": 50},
    )
    op.create_index(op.f("ix_queue_sessions_agent"), "sessions", ["agent"], unique=False, schema="queue")
