"""What runs told of their results stands in their rows; those of before told nothing."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column: empty, so no row is written."""
    op.add_column(
        "runs",
        sa.Column(
            "results",
            sa.LargeBinary(),
            nullable=True,
            comment="towline.v1.AttemptResult: what it told; null: nothing",
        ),
        schema="queue",
    )
