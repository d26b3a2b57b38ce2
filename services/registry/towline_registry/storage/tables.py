"""The registry's tables (schema `registry`). Migrations are made from these definitions.

A row of `jobs` or `artifacts` counts versions and is the lock under which one is added, deleted or pointed
at. What a version says never changes. One that is deleted stays as a row for a while, unknown to everybody: a
run that was submitted just before still needs its bytes.
"""

from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    ForeignKey,
    ForeignKeyConstraint,
    Identity,
    Index,
    Integer,
    Interval,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    func,
    text,
    true,
)

from towline.service.postgres import requests_table

__all__ = [
    "SCHEMA",
    "artifact_aliases",
    "artifact_uses",
    "artifact_versions",
    "artifacts",
    "blob_references",
    "blobs",
    "discarded_objects",
    "identity",
    "images",
    "job_aliases",
    "job_inputs",
    "job_versions",
    "jobs",
    "metadata",
    "requests",
    "upkeep",
]

SCHEMA: Final = "registry"

metadata = MetaData(schema=SCHEMA)
_Time = DateTime(timezone=True)
# Lists go by name, byte by byte, whatever language the database was made for.
_Name = Text(collation="C")


def _series_columns() -> list[Column[Any]]:
    """What jobs and artifacts have alike: versions are counted, one is the latest, old ones may go."""
    return [
        Column("version_count", Integer, nullable=False, server_default=text("0"), comment="the next number"),
        Column("create_time", _Time, nullable=False, server_default=func.now()),
        Column("latest", Integer, comment="number of the version sent last; null: none is left"),
        Column("keep_newest", Integer, comment="retention: so many of the newest; null: no such rule"),
        Column("keep_for", Interval, comment="retention: those that are younger; null: no such rule"),
    ]


def _life_columns() -> list[Column[Any]]:
    """How versions of either kind come and go."""
    return [
        Column("create_time", _Time, nullable=False, server_default=func.now()),
        Column("delete_time", _Time, comment="unknown since; the row goes some days later"),
        Column("kept_time", _Time, comment="when retention last found it in use"),
    ]


jobs = Table(
    "jobs", metadata, Column("name", _Name, primary_key=True, comment="jobs/{job}"), *_series_columns()
)

job_versions = Table(
    "job_versions",
    metadata,
    Column("job", _Name, ForeignKey(jobs.c.name), nullable=False),
    Column("number", Integer, nullable=False),
    Column("digest", Text, nullable=False, comment="of what is run"),
    Column("spec", LargeBinary, nullable=False, comment="towline.v1.JobSpec"),
    Column("author", Text, nullable=False),
    *_life_columns(),
    PrimaryKeyConstraint("job", "number"),
    Index("job_versions_by_digest", "job", "digest"),
    Index("job_versions_deleted", "delete_time", postgresql_where=text("delete_time IS NOT NULL")),
)

job_aliases = Table(
    "job_aliases",
    metadata,
    Column("job", _Name, nullable=False),
    Column("alias", _Name, nullable=False, comment='never "latest"'),
    Column("number", Integer, nullable=False),
    PrimaryKeyConstraint("job", "alias"),
    ForeignKeyConstraint(["job", "number"], [job_versions.c.job, job_versions.c.number]),
    Index("job_aliases_by_version", "job", "number"),
)

job_inputs = Table(
    "job_inputs",
    metadata,
    Column("job", _Name, nullable=False),
    Column("number", Integer, nullable=False),
    Column("artifact", _Name, nullable=False, comment="artifacts/{artifact}"),
    Column("word", _Name, nullable=False, comment="version or alias, as the spec names it"),
    PrimaryKeyConstraint("job", "number", "artifact", "word"),
    ForeignKeyConstraint(["job", "number"], [job_versions.c.job, job_versions.c.number], ondelete="CASCADE"),
    Index("job_inputs_by_artifact", "artifact", "word"),
)

artifacts = Table(
    "artifacts",
    metadata,
    Column("name", _Name, primary_key=True, comment="artifacts/{artifact}"),
    *_series_columns(),
)

artifact_versions = Table(
    "artifact_versions",
    metadata,
    Column("artifact", _Name, ForeignKey(artifacts.c.name), nullable=False),
    Column("number", Integer, nullable=False),
    Column("type", Text, nullable=False),
    Column("digest", Text, nullable=False, comment="of `manifest`"),
    Column("size_bytes", BigInteger, nullable=False),
    Column("file_count", Integer, nullable=False),
    Column(
        "manifest", LargeBinary, nullable=False, comment="towline.v1.ArtifactVersion with its files alone"
    ),
    Column("producer_run", _Name, nullable=False),
    *_life_columns(),
    Column("producer_job_version", _Name, nullable=False, server_default=text("''")),
    Column("metadata_json", Text, nullable=False, server_default=text("''")),
    PrimaryKeyConstraint("artifact", "number"),
    Index("artifact_versions_by_digest", "artifact", "digest"),
    Index("artifact_versions_by_run", "producer_run", postgresql_where=text("producer_run <> ''")),
    Index(
        "artifact_versions_by_recording",
        "producer_job_version",
        postgresql_where=text("producer_run = '' AND producer_job_version <> ''"),
    ),
    Index("artifact_versions_deleted", "delete_time", postgresql_where=text("delete_time IS NOT NULL")),
)

artifact_aliases = Table(
    "artifact_aliases",
    metadata,
    Column("artifact", _Name, nullable=False),
    Column("alias", _Name, nullable=False, comment='never "latest"'),
    Column("number", Integer, nullable=False),
    PrimaryKeyConstraint("artifact", "alias"),
    ForeignKeyConstraint(["artifact", "number"], [artifact_versions.c.artifact, artifact_versions.c.number]),
    Index("artifact_aliases_by_version", "artifact", "number"),
)

artifact_uses = Table(
    "artifact_uses",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True, comment="later uses have larger ones"),
    Column("artifact", _Name, nullable=False),
    Column("number", Integer, nullable=False),
    Column("run", _Name, nullable=False, comment="runs/{run}; empty: the recording of `job_version`"),
    Column("job_version", _Name, nullable=False),
    Column("create_time", _Time, nullable=False, server_default=func.now()),
    UniqueConstraint("artifact", "number", "run", "job_version"),
    ForeignKeyConstraint(
        ["artifact", "number"],
        [artifact_versions.c.artifact, artifact_versions.c.number],
        ondelete="CASCADE",
    ),
    Index("artifact_uses_by_version", "artifact", "number", "id"),
    Index("artifact_uses_by_reader", "run", "job_version"),
)

blobs = Table(
    "blobs",
    metadata,
    # A row is made after the bytes are safe in the object store, so a row means: they are there.
    Column("digest", _Name, primary_key=True),
    Column("size_bytes", BigInteger, nullable=False),
    Column("create_time", _Time, nullable=False, server_default=func.now()),
    Column("object_key", _Name, nullable=False, unique=True, comment="where the bytes are; never used again"),
    Column(
        "needed_time",
        _Time,
        nullable=False,
        server_default=func.now(),
        comment="when somebody was last told that it is there, give or take an eighth of the grace",
    ),
)

# Objects that no blob has any more; a row goes once the object is deleted.
discarded_objects = Table(
    "discarded_objects",
    metadata,
    Column("object_key", _Name, primary_key=True),
    Column("discard_time", _Time, nullable=False, server_default=func.now()),
)

# One row, made when it is first asked for: tells this registry from others that have the same object store.
identity = Table(
    "identity",
    metadata,
    Column("singleton", Boolean, CheckConstraint("singleton"), primary_key=True, server_default=true()),
    Column("id", Uuid, nullable=False),
)

# Work that one replica does for all.
upkeep = Table(
    "upkeep",
    metadata,
    Column("task", Text, primary_key=True),
    Column("start_time", _Time, nullable=False, comment="when it was begun last"),
)

# Which blobs a version needs, also one that is deleted but still a row. No foreign key leads to `blobs`: it
# would check a manifest of 100,000 files row by row. `storage/references.py` says what stands in for it.
blob_references = Table(
    "blob_references",
    metadata,
    Column("digest", _Name, nullable=False),
    Column("owner", _Name, nullable=False, comment="jobs/{job}/versions/{version} or artifacts/…"),
    PrimaryKeyConstraint("digest", "owner"),
    Index("blob_references_by_owner", "owner"),
)

images = Table(
    "images",
    metadata,
    Column("repository", _Name, nullable=False, comment="where its agents push to"),
    Column("digest", _Name, nullable=False, comment="of everything that goes in"),
    Column("epoch", BigInteger, nullable=False, server_default=text("0"), comment="of the last build lease"),
    Column("builder", Text, nullable=False, server_default="", comment="agents/{agent} of that lease"),
    Column("build_id", Text, nullable=False, server_default="", comment="tells the builds of an agent apart"),
    Column("detail", Text, nullable=False, server_default="", comment="what the build does, for people"),
    Column("build_time", _Time, comment="when the build began; once it is there: when it was recorded"),
    Column("expire_time", _Time, comment="of the lease; null: nobody has one"),
    Column("reference", Text, comment="repository@digest; null: it is not there"),
    Column("size_bytes", BigInteger, nullable=False, server_default=text("0")),
    Column("failed_epoch", BigInteger, comment="of the last build that failed"),
    Column("failure", LargeBinary, comment="towline.v1.Failure of that build"),
    PrimaryKeyConstraint("repository", "digest"),
)

requests = requests_table(metadata)
