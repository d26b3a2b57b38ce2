"""The migrations of the schema `registry` and the definitions of its tables."""

import asyncio
import json
from pathlib import Path
from typing import Any

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import text

from towline.service.postgres import connecting, migrate, transaction
from towline.v1 import artifacts_pb2, jobs_pb2
from towline_registry.core import digests, jobspecs, manifests
from towline_registry.storage.tables import SCHEMA, metadata
from towline_testing.registry import digest_of, refused, registry_service, registry_settings

SCRIPTS = "towline_registry:migrations"


def differences(connection: Any) -> list[Any]:
    def ours(name: str | None, kind: str, _: object) -> bool:
        return kind != "schema" or name == SCHEMA

    options = {
        "include_schemas": True,
        "include_name": ours,
        "version_table_schema": SCHEMA,
        "compare_type": True,
        "compare_server_default": True,
    }
    return compare_metadata(MigrationContext.configure(connection, opts=options), metadata)


async def test_migrations_make_the_tables_as_defined(empty_database_url: str) -> None:
    async with connecting(empty_database_url) as engine:
        await migrate(engine, schema=SCHEMA, scripts=SCRIPTS)
        async with transaction(engine) as connection:
            assert await connection.run_sync(differences) == []
            await connection.execute(text("ALTER TABLE registry.blobs ADD COLUMN extra text"))
            assert await connection.run_sync(differences), "the comparison sees what differs"


async def test_replicas_that_start_together_take_turns(empty_database_url: str) -> None:
    async with connecting(empty_database_url) as engine:
        async with asyncio.TaskGroup() as group:
            for _ in range(6):
                group.create_task(migrate(engine, schema=SCHEMA, scripts=SCRIPTS))
        async with transaction(engine) as connection:
            versions = await connection.scalars(text("SELECT version_num FROM registry.alembic_version"))
            assert len(versions.all()) == 1
            public = await connection.scalars(
                text("SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace")
            )
            assert public.all() == [], "nothing outside the service's own schema"


CODE, ONE, TWO, UNUSED = b"a source tree", b"one", b"twenty-two", b"nobody needs it"


def job_version(number: int) -> jobs_pb2.JobSpec:
    source = jobs_pb2.CodeSource(digest=digest_of(CODE), size_bytes=len(CODE))
    return jobspecs.completed(
        jobs_pb2.JobSpec(code=source, entrypoint=["train"], config_json=json.dumps({"n": number}))
    )


def artifact_files(*contents: bytes) -> list[artifacts_pb2.ArtifactFile]:
    return [
        artifacts_pb2.ArtifactFile(path=str(index), digest=digest_of(data), size_bytes=len(data))
        for index, data in enumerate(contents)
    ]


async def fill_first_schema(connection: Any) -> None:
    """Write what the registry wrote before versions could be deleted."""

    async def insert(table: str, **values: object) -> None:
        columns = ", ".join(values)
        marks = ", ".join(f":{column}" for column in values)
        await connection.execute(text(f"INSERT INTO registry.{table} ({columns}) VALUES ({marks})"), values)

    for data in (CODE, ONE, TWO, UNUSED):
        await insert("blobs", digest=digest_of(data), size_bytes=len(data))
    await insert("jobs", name="jobs/train", version_count=2)
    await insert("jobs", name="jobs/empty", version_count=0)
    for number in range(2):
        spec = job_version(number)
        await insert(
            "job_versions",
            job="jobs/train",
            number=number,
            digest=jobspecs.digest_of(spec),
            spec=spec.SerializeToString(),
            author="ada",
        )
    await insert("job_aliases", job="jobs/train", alias="prod", number=0)
    await insert("artifacts", name="artifacts/out", version_count=2)
    for number, contents in enumerate([(ONE, ONE), (ONE, TWO)]):
        manifest = manifests.checked(artifact_files(*contents))
        await insert(
            "artifact_versions",
            artifact="artifacts/out",
            number=number,
            type="outputs",
            digest=manifest.digest,
            size_bytes=manifest.size_bytes,
            file_count=manifest.file_count,
            manifest=manifest.serialized,
            producer_run="runs/a",
        )


def upgrade_to_first(connection: Any) -> None:
    config = Config()
    config.set_main_option("script_location", SCRIPTS)
    config.set_main_option("path_separator", "os")
    config.attributes |= {"connection": connection, "schema": SCHEMA}
    command.upgrade(config, "0001")


async def test_what_was_there_before_versions_could_be_deleted_stays(
    empty_database_url: str, tmp_path: Path
) -> None:
    async with connecting(empty_database_url) as engine:
        async with transaction(engine) as connection:
            await connection.execute(text(f"CREATE SCHEMA {SCHEMA}"))
            await connection.run_sync(upgrade_to_first)
            await fill_first_schema(connection)
        # Bytes lie where the registry of that time put them.
        for data in (CODE, ONE, TWO, UNUSED):
            digits = digests.hex_digits(digests.of(data))
            place = tmp_path / "blobs" / "blobs" / "sha256" / digits[:2] / digits[2:]
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(data)
        async with registry_service(registry_settings(empty_database_url, tmp_path)) as registry:
            async with transaction(engine) as connection:
                assert await connection.run_sync(differences) == []
                rows = await connection.execute(text("SELECT owner, digest FROM registry.blob_references"))
                assert {tuple(row) for row in rows} == {
                    ("jobs/train/versions/v0", digest_of(CODE)),
                    ("jobs/train/versions/v1", digest_of(CODE)),
                    ("artifacts/out/versions/v0", digest_of(ONE)),
                    ("artifacts/out/versions/v1", digest_of(ONE)),
                    ("artifacts/out/versions/v1", digest_of(TWO)),
                }
            [job] = (await registry.jobs.ListJobs(jobs_pb2.ListJobsRequest())).jobs
            assert (job.latest_version, job.version_count) == ("jobs/train/versions/v1", 2)
            empty = jobs_pb2.GetJobVersionRequest(name="jobs/empty/versions/latest")
            assert (await refused(registry.jobs.GetJobVersion(empty))).reason == "JOB_NOT_FOUND"
            first = (await registry.create("jobs/train", job_version(0))).job_version
            assert (first.name, list(first.aliases)) == ("jobs/train/versions/v0", ["latest", "prod"])
            assert (await registry.create("jobs/train", job_version(2))).created
            got = await registry.artifacts.GetArtifactVersion(
                artifacts_pb2.GetArtifactVersionRequest(name="artifacts/out/versions/latest")
            )
            assert list(got.artifact_version.files) == artifact_files(ONE, TWO)
            assert got.artifact_version.name == "artifacts/out/versions/v1"
            for data in (CODE, ONE, TWO):
                assert await registry.download(digest_of(data)) == data
