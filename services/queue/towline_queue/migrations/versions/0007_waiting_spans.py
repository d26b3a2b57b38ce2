"""Runs that were submitted together wait as one row of `ready`; their sequence numbers follow each other."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make each run that waits a span of its own: no row is written.

    Replicas of 0006 would hand out the first run of a span and lose the others. The column's new name makes
    all they ask of `ready` fail instead, so nothing is submitted or handed out by them from now on.
    """
    op.alter_column("ready", "run", new_column_name="first_run", schema="queue")
    op.add_column(
        "ready",
        sa.Column(
            "size",
            sa.SmallInteger(),
            server_default=sa.text("1"),
            nullable=False,
            comment="runs of the span",
        ),
        schema="queue",
    )
    op.execute("ALTER SEQUENCE queue.runs_seq_seq INCREMENT BY 2048")
