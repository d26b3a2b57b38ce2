"""Images by content key, and their build leases."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table."""
    time = sa.DateTime(timezone=True)
    op.create_table(
        "images",
        sa.Column("repository", sa.Text(collation="C"), nullable=False, comment="where its agents push to"),
        sa.Column("digest", sa.Text(collation="C"), nullable=False, comment="of everything that goes in"),
        sa.Column(
            "epoch",
            sa.BigInteger(),
            server_default=sa.text("0"),
            nullable=False,
            comment="of the last build lease",
        ),
        sa.Column(
            "builder", sa.Text(), server_default="", nullable=False, comment="agents/{agent} of that lease"
        ),
        sa.Column(
            "build_id",
            sa.Text(),
            server_default="",
            nullable=False,
            comment="tells the builds of an agent apart",
        ),
        sa.Column(
            "detail", sa.Text(), server_default="", nullable=False, comment="what the build does, for people"
        ),
        sa.Column("build_time", time, comment="when the build began; once it is there: when it was recorded"),
        sa.Column("expire_time", time, comment="of the lease; null: nobody has one"),
        sa.Column("reference", sa.Text(), comment="repository@digest; null: it is not there"),
        sa.Column("size_bytes", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("failed_epoch", sa.BigInteger(), comment="of the last build that failed"),
        sa.Column("failure", sa.LargeBinary(), comment="towline.v1.Failure of that build"),
        sa.PrimaryKeyConstraint("repository", "digest"),
        schema="registry",
    )
