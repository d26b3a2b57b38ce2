"""When images were there and how they came about; when programs printed first; what agents withhold."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns: empty, or with a default that is stored once, so no row is written."""
    op.add_column(
        "agents",
        sa.Column(
            "withheld",
            sa.Text(),
            server_default="",
            nullable=False,
            comment="why it offers less than it has; empty: it does not",
        ),
        schema="queue",
    )
    for table in ("leases", "attempts"):
        op.add_column(table, sa.Column("image_time", sa.DateTime(timezone=True)), schema="queue")
        op.add_column(
            table,
            # Not "image": replicas of 0004 read a lease's columns beside one of that name.
            sa.Column("image_facts", sa.LargeBinary(), comment="towline.v1.AttemptImage; null: not told"),
            schema="queue",
        )
    op.add_column(
        "log_streams",
        sa.Column("first_time", sa.DateTime(timezone=True), comment="when its first bytes were stored"),
        schema="queue",
    )
