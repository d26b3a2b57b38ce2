"""A lease's own time, retries, limits, preemption, and leaders by term."""

from datetime import timedelta
from typing import Any

import sqlalchemy as sa
from alembic import op

from towline.v1 import queues_pb2

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

# What `lost_after` was where a queue did not set it; also for leases without a session to ask.
_LOST_AFTER = timedelta(seconds=120)
_LOST = 5  # towline.v1.AttemptOutcome
_NODE_LOST = 6  # towline.v1.FailureCause


def upgrade() -> None:
    """Add the columns, filled from what is there, and drop the times that sessions had."""
    op.create_table(
        "leaders",
        sa.Column("name", sa.Text(), nullable=False, comment="of the work that is led"),
        sa.Column("holder", sa.Uuid(), nullable=False, comment="the process that leads"),
        sa.Column("term", sa.BigInteger(), nullable=False, comment="rises with each new leader"),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name"),
        schema="queue",
    )
    _queues()
    _leases()
    _add(
        "agents",
        "drain_deadline",
        sa.DateTime(timezone=True),
        "when the runs left are preempted; null: never",
    )
    op.add_column(
        "agents",
        sa.Column(
            "hello_seq", sa.BigInteger(), nullable=False, server_default="0", comment="of the last Hello"
        ),
        schema="queue",
    )
    _add("runs", "preempt_epoch", sa.BigInteger(), "the attempt to preempt; void for any other")
    _add("runs", "max_wait", sa.Interval(), "how long it may wait for an agent; null: no limit")
    _add("runs", "retry_policy", sa.LargeBinary(), "towline.v1.RetryPolicy; null: the defaults")
    _add("ready", "expire_time", sa.DateTime(timezone=True), "when it has waited for too long; null: never")
    op.create_index(
        "ready_by_expire_time",
        "ready",
        ["expire_time"],
        schema="queue",
        postgresql_where=sa.text("expire_time IS NOT NULL"),
    )
    _attempts()


def _add(table: str, name: str, kind: sa.types.TypeEngine[Any], comment: str) -> None:
    op.add_column(table, sa.Column(name, kind, nullable=True, comment=comment), schema="queue")


def _queues() -> None:
    _add("queues", "lost_after", sa.Interval(), "of the spec; new leases take it")
    connection = op.get_bind()
    queues = sa.table(
        "queues",
        sa.column("name", sa.Text()),
        sa.column("spec", sa.LargeBinary()),
        sa.column("lost_after", sa.Interval()),
        schema="queue",
    )
    for name, spec in connection.execute(sa.select(queues.c.name, queues.c.spec)).all():
        policy = queues_pb2.QueueSpec.FromString(spec).lease_policy
        lost_after = policy.lost_after.ToTimedelta() if policy.HasField("lost_after") else _LOST_AFTER
        connection.execute(sa.update(queues).where(queues.c.name == name).values(lost_after=lost_after))
    op.alter_column("queues", "lost_after", nullable=False, schema="queue")


def _leases() -> None:
    _add("leases", "lost_after", sa.Interval(), "how long a renewal of the session holds it")
    # What their agents were promised, not what their queues say.
    op.execute(
        "UPDATE queue.leases SET lost_after = sessions.ttl "
        "FROM queue.sessions WHERE sessions.id = leases.session"
    )
    op.execute(
        sa.text("UPDATE queue.leases SET lost_after = :default WHERE lost_after IS NULL").bindparams(
            sa.bindparam("default", _LOST_AFTER, sa.Interval())
        )
    )
    op.alter_column("leases", "lost_after", nullable=False, schema="queue")
    op.drop_column("sessions", "expires_at", schema="queue")
    op.drop_column("sessions", "ttl", schema="queue")


def _attempts() -> None:
    op.add_column(
        "attempts",
        sa.Column(
            "cause", sa.SmallInteger(), nullable=False, server_default=sa.text("0"), comment="of the failure"
        ),
        schema="queue",
    )
    op.add_column(
        "attempts", sa.Column("outputs", sa.Text(), nullable=False, server_default=""), schema="queue"
    )
    # Of attempts whose runs may go on, only lost ones have a cause: all others that failed ended their run.
    op.execute(
        sa.text("UPDATE queue.attempts SET cause = :cause WHERE outcome = :outcome").bindparams(
            cause=_NODE_LOST, outcome=_LOST
        )
    )
