"""The registry's tables (schema `registry`). Migrations are made from these definitions.

Rows of `jobs` and `artifacts` count versions and are the lock under which one is added; rows of
versions and blobs never change.
"""

from typing import Final

from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    func,
    text,
)

from towline.service.postgres import requests_table

__all__ = [
    "SCHEMA",
    "artifact_versions",
    "artifacts",
    "blobs",
    "job_aliases",
    "job_versions",
    "jobs",
    "metadata",
    "requests",
]

SCHEMA: Final = "registry"

metadata = MetaData(schema=SCHEMA)
_Time = DateTime(timezone=True)
# Lists go by name, byte by byte, whatever language the database was made for.
_Name = Text(collation="C")

jobs = Table(
    "jobs",
    metadata,
    Column("name", _Name, primary_key=True, comment="jobs/{job}"),
    Column("version_count", Integer, nullable=False, server_default=text("0"), comment="the next number"),
    Column("create_time", _Time, nullable=False, server_default=func.now()),
)

job_versions = Table(
    "job_versions",
    metadata,
    Column("job", _Name, ForeignKey(jobs.c.name), nullable=False),
    Column("number", Integer, nullable=False),
    Column("digest", Text, nullable=False, comment="of what is run"),
    Column("spec", LargeBinary, nullable=False, comment="towline.v1.JobSpec"),
    Column("author", Text, nullable=False),
    Column("create_time", _Time, nullable=False, server_default=func.now()),
    PrimaryKeyConstraint("job", "number"),
)

job_aliases = Table(
    "job_aliases",
    metadata,
    Column("job", _Name, nullable=False),
    Column("alias", _Name, nullable=False, comment='never "latest", which follows from the numbers'),
    Column("number", Integer, nullable=False),
    PrimaryKeyConstraint("job", "alias"),
    ForeignKeyConstraint(["job", "number"], [job_versions.c.job, job_versions.c.number]),
    Index("job_aliases_by_version", "job", "number"),
)

artifacts = Table(
    "artifacts",
    metadata,
    Column("name", _Name, primary_key=True, comment="artifacts/{artifact}"),
    Column("version_count", Integer, nullable=False, server_default=text("0"), comment="the next number"),
    Column("create_time", _Time, nullable=False, server_default=func.now()),
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
    Column("producer_run", Text, nullable=False),
    Column("create_time", _Time, nullable=False, server_default=func.now()),
    PrimaryKeyConstraint("artifact", "number"),
)

blobs = Table(
    "blobs",
    metadata,
    # A row is made after the bytes are safe in the object store, so a row means: they are there.
    Column("digest", _Name, primary_key=True),
    Column("size_bytes", BigInteger, nullable=False),
    Column("create_time", _Time, nullable=False, server_default=func.now()),
)

requests = requests_table(metadata)
