"""Versions that go, aliases of artifacts, what reads what, and which blobs are needed."""

from typing import Any

import sqlalchemy as sa
from alembic import op

from towline.v1.artifacts_pb2 import ArtifactVersion
from towline.v1.jobs_pb2 import JobSpec

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_SCHEMA = "registry"
_NAME = sa.Text(collation="C")
_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Change the tables, and fill what follows from the versions that are there."""
    for parent, versions in (("jobs", "job_versions"), ("artifacts", "artifact_versions")):
        _change_series(parent)
        _change_versions(versions, parent.removesuffix("s"))
    op.alter_column(
        "job_aliases",
        "alias",
        comment='never "latest"',
        existing_comment='never "latest", which follows from the numbers',
        schema=_SCHEMA,
    )
    _change_artifact_versions()
    _create_job_inputs()
    _create_artifact_aliases()
    _create_artifact_uses()
    _create_blob_references()


def _change_series(table: str) -> None:
    columns: tuple[sa.Column[Any], ...] = (
        sa.Column("latest", sa.Integer(), comment="number of the version sent last; null: none is left"),
        sa.Column(
            "keep_newest", sa.Integer(), comment="retention: so many of the newest; null: no such rule"
        ),
        sa.Column("keep_for", sa.Interval(), comment="retention: those that are younger; null: no such rule"),
    )
    for column in columns:
        op.add_column(table, column, schema=_SCHEMA)
    op.execute(f"UPDATE {_SCHEMA}.{table} SET latest = version_count - 1 WHERE version_count > 0")  # noqa: S608 - our own words


def _change_versions(table: str, series: str) -> None:
    columns: tuple[sa.Column[Any], ...] = (
        sa.Column("delete_time", _TIME, comment="unknown since; the row goes some days later"),
        sa.Column("kept_time", _TIME, comment="when retention last found it in use"),
    )
    for column in columns:
        op.add_column(table, column, schema=_SCHEMA)
    op.create_index(f"{table}_by_digest", table, [series, "digest"], schema=_SCHEMA)
    op.create_index(
        f"{table}_deleted",
        table,
        ["delete_time"],
        schema=_SCHEMA,
        postgresql_where=sa.text("delete_time IS NOT NULL"),
    )


def _change_artifact_versions() -> None:
    table = "artifact_versions"
    # By name, byte by byte, as all names: it is looked for now.
    op.alter_column(
        table, "producer_run", type_=_NAME, existing_type=sa.Text(), existing_nullable=False, schema=_SCHEMA
    )
    for column in (
        sa.Column("producer_job_version", _NAME, nullable=False, server_default=sa.text("''")),
        sa.Column("metadata_json", sa.Text(), nullable=False, server_default=sa.text("''")),
    ):
        op.add_column(table, column, schema=_SCHEMA)
    op.create_index(
        "artifact_versions_by_run",
        table,
        ["producer_run"],
        schema=_SCHEMA,
        postgresql_where=sa.text("producer_run <> ''"),
    )
    op.create_index(
        "artifact_versions_by_recording",
        table,
        ["producer_job_version"],
        schema=_SCHEMA,
        postgresql_where=sa.text("producer_run = '' AND producer_job_version <> ''"),
    )


def _create_job_inputs() -> None:
    op.create_table(
        "job_inputs",
        sa.Column("job", _NAME, nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("artifact", _NAME, nullable=False, comment="artifacts/{artifact}"),
        sa.Column("word", _NAME, nullable=False, comment="version or alias, as the spec names it"),
        sa.PrimaryKeyConstraint("job", "number", "artifact", "word"),
        sa.ForeignKeyConstraint(
            ["job", "number"],
            ["registry.job_versions.job", "registry.job_versions.number"],
            ondelete="CASCADE",
        ),
        schema=_SCHEMA,
    )
    op.create_index("job_inputs_by_artifact", "job_inputs", ["artifact", "word"], schema=_SCHEMA)


def _create_artifact_aliases() -> None:
    op.create_table(
        "artifact_aliases",
        sa.Column("artifact", _NAME, nullable=False),
        sa.Column("alias", _NAME, nullable=False, comment='never "latest"'),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("artifact", "alias"),
        sa.ForeignKeyConstraint(
            ["artifact", "number"],
            ["registry.artifact_versions.artifact", "registry.artifact_versions.number"],
        ),
        schema=_SCHEMA,
    )
    op.create_index("artifact_aliases_by_version", "artifact_aliases", ["artifact", "number"], schema=_SCHEMA)


def _create_artifact_uses() -> None:
    op.create_table(
        "artifact_uses",
        sa.Column(
            "id",
            sa.BigInteger(),
            sa.Identity(always=True),
            nullable=False,
            comment="later uses have larger ones",
        ),
        sa.Column("artifact", _NAME, nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("run", _NAME, nullable=False, comment="runs/{run}; empty: the recording of `job_version`"),
        sa.Column("job_version", _NAME, nullable=False),
        sa.Column("create_time", _TIME, server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("artifact", "number", "run", "job_version"),
        sa.ForeignKeyConstraint(
            ["artifact", "number"],
            ["registry.artifact_versions.artifact", "registry.artifact_versions.number"],
            ondelete="CASCADE",
        ),
        schema=_SCHEMA,
    )
    op.create_index("artifact_uses_by_version", "artifact_uses", ["artifact", "number", "id"], schema=_SCHEMA)
    op.create_index("artifact_uses_by_reader", "artifact_uses", ["run", "job_version"], schema=_SCHEMA)


def _create_blob_references() -> None:
    op.create_table(
        "blob_references",
        sa.Column("digest", _NAME, nullable=False),
        sa.Column("owner", _NAME, nullable=False, comment="jobs/{job}/versions/{version} or artifacts/…"),
        sa.PrimaryKeyConstraint("digest", "owner"),
        schema=_SCHEMA,
    )
    op.create_index("blob_references_by_owner", "blob_references", ["owner"], schema=_SCHEMA)
    _fill_blob_references()


def _fill_blob_references() -> None:
    """Note what each version needs; one at a time, for each may have megabytes."""
    connection = op.get_bind()
    for job, number in connection.execute(sa.text("SELECT job, number FROM registry.job_versions")).all():
        spec = JobSpec.FromString(_content("spec", "job_versions", "job", job, number))
        if spec.HasField("code"):
            _refer(f"{job}/versions/v{number}", {spec.code.digest})
    rows = connection.execute(sa.text("SELECT artifact, number FROM registry.artifact_versions")).all()
    for artifact, number in rows:
        content = _content("manifest", "artifact_versions", "artifact", artifact, number)
        files = ArtifactVersion.FromString(content).files
        _refer(f"{artifact}/versions/v{number}", {file.digest for file in files})


def _content(column: str, table: str, series: str, name: str, number: int) -> bytes:
    query = f"SELECT {column} FROM {_SCHEMA}.{table} WHERE {series} = :name AND number = :number"  # noqa: S608 - our own words
    content: bytes = op.get_bind().execute(sa.text(query), {"name": name, "number": number}).scalar_one()
    return content


def _refer(owner: str, digests: set[str]) -> None:
    op.get_bind().execute(
        sa.text(
            "INSERT INTO registry.blob_references (digest, owner)"
            " SELECT digest, :owner FROM unnest(CAST(:digests AS text[])) AS digest"
        ),
        {"owner": owner, "digests": sorted(digests)},
    )
