"""How artifacts and their lineage are shown."""

import io

from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import Console, RenderableType

from towline.cli import artifact_pages
from towline.v1 import artifacts_pb2


def drawn(page: RenderableType) -> list[str]:
    console = Console(file=io.StringIO(), width=200, highlight=False)
    console.print(page)
    text = console.file.getvalue()  # type: ignore[attr-defined] - the StringIO from above
    return [line.rstrip() for line in text.splitlines()]


def version(name: str, run: str = "", job: str = "") -> artifacts_pb2.ArtifactVersion:
    return artifacts_pb2.ArtifactVersion(
        name=f"artifacts/{name.replace(':', '/versions/')}",
        type="dataset",
        size_bytes=2048,
        file_count=2,
        create_time=Timestamp(seconds=1),
        producer_run=run and f"runs/{run}",
        producer_job_version=job and f"jobs/{job.replace(':', '/versions/')}",
    )


def use(run: str, job: str) -> artifacts_pb2.ArtifactUse:
    return artifacts_pb2.ArtifactUse(
        run=run and f"runs/{run}", job_version=f"jobs/{job.replace(':', '/versions/')}"
    )


def test_what_each_reader_made_stands_below_it() -> None:
    page = artifact_pages.lineage(
        artifacts_pb2.GetArtifactLineageResponse(
            artifact_version=version("digits:v1", "r0", "prepare:v2"),
            producer_inputs=[version("raw:v0")],
            uses=[use("r1", "train:v3"), use("", "train:v3"), use("", "other:v0")],
            descendants=[
                version("a:v0", "r1", "train:v3"),
                version("b:v0", "", "other:v0"),
                version("c:v0", "r1"),
            ],
            next_page_token="more",
        )
    )

    assert drawn(page) == [
        "digits:v1 (dataset, 2 files, 2.0 KiB)",
        "├── made by run r0 of prepare:v2",
        "│   └── which read raw:v0 (dataset)",
        "└── read by",
        "    ├── run r1 of train:v3",
        "    │   ├── which made a:v0 (dataset)",
        "    │   └── which made c:v0 (dataset)",
        "    ├── the recording of train:v3",
        "    ├── the recording of other:v0",
        "    │   └── which made b:v0 (dataset)",
        "    └── and more; --limit N names more of them",
    ]


def test_long_lists_of_files_are_cut() -> None:
    shown = version("digits:v0")
    shown.files.extend(
        artifacts_pb2.ArtifactFile(path=f"{number:02}.txt", size_bytes=1) for number in range(30)
    )
    shown.metadata_json = '{"rows": 3}'

    lines = drawn(artifact_pages.artifact_version(shown, [shown]))

    assert sum(".txt" in line for line in lines) == 20
    assert any("and 10 more" in line for line in lines)
    assert any(line.split() == ["metadata", "rows:", "3"] for line in lines)
