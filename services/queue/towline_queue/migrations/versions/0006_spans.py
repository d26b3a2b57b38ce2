"""Runs of one request that come after each other are a span; only its first is in the indexes of lists."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_INDEXES = {"runs_by_queue": "queue", "runs_by_job_version": "job_version"}


def upgrade() -> None:
    """Make each run that is there a span of its own, as runs of replicas of 0005 are: no row is written.

    The indexes are made anew, which takes some seconds per million runs. Replicas of 0005 list the runs of a
    queue or a job by the primary key from then on.
    """
    op.add_column(
        "runs",
        sa.Column(
            "span_size",
            sa.SmallInteger(),
            server_default=sa.text("1"),
            nullable=False,
            comment="runs of the span that begins with it; 0: it is in that of another",
        ),
        schema="queue",
    )
    op.add_column(
        "runs",
        sa.Column(
            "span_end", sa.Text(collation="C"), comment="name of the last one of them; null: it is alone"
        ),
        schema="queue",
    )
    for name, column in _INDEXES.items():
        op.drop_index(name, "runs", schema="queue")
        op.create_index(
            name, "runs", [column, "name"], schema="queue", postgresql_where=sa.text("span_size > 0")
        )
