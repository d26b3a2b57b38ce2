"""A queue is printed as YAML, edited, and fed back."""

from pathlib import Path

import pytest

from towline.cli import queue_files
from towline.embedded import default_queue
from towline.errors import InvalidArgument
from towline.v1 import docker_pb2, queues_pb2, runs_pb2


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


def test_limits_retries_and_the_stop_signal_are_written_as_people_write_them(tmp_path: Path) -> None:
    text = """
        lease_policy: {lost_after: 4h, stop_grace: 1m30s, stop_signal: SIGUSR1, heartbeat_interval: 0.5s}
        limits: {max_wait: 7d, max_runtime: 7200s}
        retry_policy:
          budgets:
          - {cause: oom, max_retries: 1}
          - {cause: FAILURE_CAUSE_USER_ERROR, max_retries: 3}
          first_backoff: 30s
        """
    spec = _read(tmp_path, text)
    policy = spec.lease_policy
    assert (policy.lost_after.seconds, policy.stop_grace.seconds) == (4 * 3600, 90)
    assert (policy.heartbeat_interval.nanos, policy.stop_signal) == (500_000_000, "SIGUSR1")
    assert (spec.limits.max_wait.seconds, spec.limits.max_runtime.seconds) == (7 * 86400, 7200)
    assert [(budget.cause, budget.max_retries) for budget in spec.retry_policy.budgets] == [
        (runs_pb2.FAILURE_CAUSE_OOM, 1),
        (runs_pb2.FAILURE_CAUSE_USER_ERROR, 3),
    ]
    assert spec.retry_policy.first_backoff.seconds == 30
    written = queue_files.written(queues_pb2.Queue(name="queues/default", spec=spec))
    for line in ("max_wait: 7d", "max_runtime: 2h", "stop_grace: 1m30s", "cause: oom", "0.5s"):
        assert line in written
    assert _read(tmp_path, written) == spec


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("limits: {max_runtime: 2x}", r"limits.max_runtime: '2x' is no duration; write one such as 90s"),
        ("limits: {max_runtime: 30}", r"limits.max_runtime: '30' has no unit; write 30s, 30m"),
        ("lease_policy: {lost_after: [1]}", r"lease_policy.lost_after: '\[1\]' is no duration"),
        ("retry_policy: {budgets: [{cause: bad luck}]}", r"budgets\[0\].cause: 'bad luck' is none of user_"),
    ],
)
def test_what_is_wrong_with_a_duration_or_a_cause_is_told_with_its_place(
    tmp_path: Path, text: str, problem: str
) -> None:
    with pytest.raises(InvalidArgument, match=problem) as raised:
        _read(tmp_path, text)
    assert raised.value.message.startswith(f"--file {tmp_path}")
    assert "cancelled" not in raised.value.message
