"""A run recorded here is run again by an agent with other parameters: image, logs, outputs."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from towline.client import Client
from towline.v1 import runs_pb2
from towline_testing.jobs import submission

pytestmark = [pytest.mark.docker, pytest.mark.postgres, pytest.mark.timeout(300)]

SCRIPT = """
import json, os, sys
import towline
import yaml

run = towline.init(job="repeated", config={"lr": 0.1, "layers": {"count": 2, "width": 8}, "name": "plain"})
print("lr", run.config.lr, "count", run.config.layers.count, "width", run.config.layers.width)
print("to stderr", file=sys.stderr)
sys.stdout.flush()
sys.stdout.buffer.write(bytes(range(256)) + b"\\nno newline at the end")
(run.outputs / "model").mkdir()
(run.outputs / "model" / "weights.bin").write_bytes(bytes(range(256)) * 1000)
(run.outputs / "metrics.json").write_text(json.dumps({"lr": run.config.lr, "yaml": yaml.__version__}))
"""


def test_recorded_run_is_repeated_with_other_parameters(
    client: Client, record: Callable[..., str], tmp_path: Path
) -> None:
    job = record("repeated", SCRIPT)

    first = client.runs.wait(client.runs.submit(submission(job, lr=0.5, layers={"width": 16})).name)
    second = client.runs.wait(client.runs.submit(submission(job, name="unchanged")).name)

    assert (first.state, second.state) == (runs_pb2.RUN_STATE_SUCCEEDED,) * 2, (first, second)
    assert json.loads(first.config_json) == {"lr": 0.5, "layers": {"count": 2, "width": 16}, "name": "plain"}
    log = b"".join(piece.data for piece in client.logs.tail(first.name))
    assert b"lr 0.5 count 2 width 16\n" in log
    # The engine keeps the order within each stream, not between them.
    assert b"to stderr\n" in log
    assert log.replace(b"to stderr\n", b"").endswith(bytes(range(256)) + b"\nno newline at the end")
    assert first.attempts[0].image_outcome in (
        runs_pb2.IMAGE_OUTCOME_BUILT,
        runs_pb2.IMAGE_OUTCOME_REUSED,  # from an earlier test run on this machine
    )
    assert second.attempts[0].image_outcome == runs_pb2.IMAGE_OUTCOME_REUSED
    assert second.attempts[0].image_id == first.attempts[0].image_id
    for run in (first, second):
        times = run.attempts[0].times
        moments = [times.lease_time, times.prepare_time, times.image_time, times.start_time, times.end_time]
        found = [moment.ToNanoseconds() for moment in moments]
        assert found[0] and found == sorted(found), times
        # The log and the news of the start come by different ways.
        assert found[0] < times.first_output_time.ToNanoseconds() <= found[-1]
    was_there = first.attempts[0].image_outcome == runs_pb2.IMAGE_OUTCOME_REUSED
    assert was_there != bool(first.attempts[0].image.steps)
    assert not second.attempts[0].HasField("image")

    client.runs.outputs(first.name, tmp_path / "outputs")
    assert (tmp_path / "outputs/model/weights.bin").read_bytes() == bytes(range(256)) * 1000
    assert json.loads((tmp_path / "outputs/metrics.json").read_text())["lr"] == 0.5


def test_failed_recording_is_a_job_too(client: Client, record: Callable[..., str]) -> None:
    script = 'import towline\ntowline.init(job="breaks")\nprint("so far")\nraise SystemExit(3)\n'
    job = record("breaks", script, fails=True)

    run = client.runs.wait(client.runs.submit(submission(job)).name)

    assert run.state == runs_pb2.RUN_STATE_FAILED
    assert run.failure.cause == runs_pb2.FAILURE_CAUSE_USER_ERROR
    assert run.failure.exit_code == 3
    assert "so far" in run.failure.log_tail
