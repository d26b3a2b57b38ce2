"""The first schema."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make all tables."""
    op.create_table(
        "artifacts",
        sa.Column("name", sa.Text(collation="C"), nullable=False, comment="artifacts/{artifact}"),
        sa.Column(
            "version_count",
            sa.Integer(),
            server_default=sa.text("0"),
            nullable=False,
            comment="the next number",
        ),
        sa.Column("create_time", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("name"),
        schema="registry",
    )
    op.create_table(
        "blobs",
        sa.Column("digest", sa.Text(collation="C"), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("create_time", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("digest"),
        schema="registry",
    )
    op.create_table(
        "jobs",
        sa.Column("name", sa.Text(collation="C"), nullable=False, comment="jobs/{job}"),
        sa.Column(
            "version_count",
            sa.Integer(),
            server_default=sa.text("0"),
            nullable=False,
            comment="the next number",
        ),
        sa.Column("create_time", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("name"),
        schema="registry",
    )
    op.create_table(
        "requests",
        sa.Column("method", sa.Text(), nullable=False),
        sa.Column("request_id", sa.Uuid(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False, comment="sha256 of the request"),
        sa.Column("response", sa.LargeBinary(), nullable=False),
        sa.Column("create_time", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("method", "request_id"),
        schema="registry",
    )
    op.create_table(
        "artifact_versions",
        sa.Column("artifact", sa.Text(collation="C"), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False, comment="of `manifest`"),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("file_count", sa.Integer(), nullable=False),
        sa.Column(
            "manifest",
            sa.LargeBinary(),
            nullable=False,
            comment="towline.v1.ArtifactVersion with its files alone",
        ),
        sa.Column("producer_run", sa.Text(), nullable=False),
        sa.Column("create_time", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["artifact"],
            ["registry.artifacts.name"],
        ),
        sa.PrimaryKeyConstraint("artifact", "number"),
        schema="registry",
    )
    op.create_table(
        "job_versions",
        sa.Column("job", sa.Text(collation="C"), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False, comment="of what is run"),
        sa.Column("spec", sa.LargeBinary(), nullable=False, comment="towline.v1.JobSpec"),
        sa.Column("author", sa.Text(), nullable=False),
        sa.Column("create_time", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["job"],
            ["registry.jobs.name"],
        ),
        sa.PrimaryKeyConstraint("job", "number"),
        schema="registry",
    )
    op.create_table(
        "job_aliases",
        sa.Column("job", sa.Text(collation="C"), nullable=False),
        sa.Column(
            "alias",
            sa.Text(collation="C"),
            nullable=False,
            comment='never "latest", which follows from the numbers',
        ),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["job", "number"],
            ["registry.job_versions.job", "registry.job_versions.number"],
        ),
        sa.PrimaryKeyConstraint("job", "alias"),
        schema="registry",
    )
    op.create_index(
        "job_aliases_by_version", "job_aliases", ["job", "number"], unique=False, schema="registry"
    )
