"""Blobs that nobody needs go: where the bytes are, when they were needed, which objects are to be deleted."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_SCHEMA = "registry"
_NAME = sa.Text(collation="C")
_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Change the tables; bytes that are there stay where they are."""
    op.add_column(
        "blobs",
        sa.Column("object_key", _NAME, comment="where the bytes are; never used again"),
        schema=_SCHEMA,
    )
    op.execute(
        "UPDATE registry.blobs SET object_key = "
        "'blobs/sha256/' || substr(digest, 8, 2) || '/' || substr(digest, 10)"
    )
    op.alter_column("blobs", "object_key", nullable=False, existing_type=_NAME, schema=_SCHEMA)
    op.create_unique_constraint(None, "blobs", ["object_key"], schema=_SCHEMA)
    op.add_column(
        "blobs",
        sa.Column(
            "needed_time",
            _TIME,
            server_default=sa.text("now()"),
            nullable=False,
            comment="when somebody was last told that it is there, give or take an eighth of the grace",
        ),
        schema=_SCHEMA,
    )
    op.create_table(
        "discarded_objects",
        sa.Column("object_key", _NAME, nullable=False),
        sa.Column("discard_time", _TIME, server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("object_key"),
        schema=_SCHEMA,
    )
    op.create_table(
        "identity",
        sa.Column("singleton", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.PrimaryKeyConstraint("singleton"),
        sa.CheckConstraint("singleton"),
        schema=_SCHEMA,
    )
    op.create_table(
        "upkeep",
        sa.Column("task", sa.Text(), nullable=False),
        sa.Column("start_time", _TIME, nullable=False, comment="when it was begun last"),
        sa.PrimaryKeyConstraint("task"),
        schema=_SCHEMA,
    )
