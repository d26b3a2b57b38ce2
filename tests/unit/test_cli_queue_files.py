"""A queue is printed as YAML, edited, and fed back."""

from pathlib import Path

import pytest

from towline.cli import queue_files
from towline.embedded import default_queue
from towline.errors import InvalidArgument
from towline.v1 import docker_pb2, queues_pb2


def _read(tmp_path: Path, text: str) -> queues_pb2.QueueSpec:
    file = tmp_path / "queue.yaml"
    file.write_text(text)
    return queue_files.read(file)


def test_what_show_prints_is_what_update_reads(tmp_path: Path) -> None:
    spec = default_queue.spec()
    spec.docker.environment["RUN"] = "${run_id}"
    spec.docker.mounts.add(source="/data", target="/data")
    spec.lease_policy.lost_after.FromSeconds(120)
    queue = queues_pb2.Queue(name="queues/default", spec=spec, etag="7")
    text = queue_files.written(queue)
    assert _read(tmp_path, text) == spec
    assert "etag 7" in text


def test_an_empty_queue_is_printed_and_read(tmp_path: Path) -> None:
    queue = queues_pb2.Queue(name="queues/default")
    assert _read(tmp_path, queue_files.written(queue)) == queues_pb2.QueueSpec()


def test_numbers_and_schemas_may_be_written_as_what_they_are(tmp_path: Path) -> None:
    spec = _read(
        tmp_path,
        """
        docker:
          cpus: 4
          gpus: "{{gpus}}"
          environment: {OMP_NUM_THREADS: 4, NAME: x}
          ulimits: {memlock: -1}
        variables:
          - name: gpus
            schema_json: {type: integer, minimum: 0}
            default_json: 0
        """,
    )
    assert spec.docker == docker_pb2.DockerTemplate(
        cpus="4",
        gpus="{{gpus}}",
        environment={"OMP_NUM_THREADS": "4", "NAME": "x"},
        ulimits={"memlock": "-1"},
    )
    assert spec.variables[0].schema_json == '{"type": "integer", "minimum": 0}'
    assert spec.variables[0].default_json == "0"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("docker: {memry: 1GiB}", "memry"),
        ("docker: [1]", "docker"),
        ("docker: {mounts: {a: b}}", "mounts"),
        ("- docker", "must hold an object"),
    ],
)
def test_what_is_no_queue_is_refused_with_the_place(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(InvalidArgument, match=problem):
        _read(tmp_path, text)
