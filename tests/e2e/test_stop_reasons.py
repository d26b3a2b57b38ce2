"""A program in a container learns why it is stopped and how long it has, and what it saves then is kept."""

import json
from datetime import timedelta
from pathlib import Path

import pytest

from towline.client import Client, retry_policy, time_limits
from towline.v1 import runs_pb2
from towline_testing.jobs import code_job, submission
from towline_testing.waiting import eventually

pytestmark = [pytest.mark.docker, pytest.mark.postgres, pytest.mark.timeout(300)]

SAVES = """
import json, time, towline
run = towline.init()
stop = towline.catch_stop()
print("ready", flush=True)
while run.attempt == 1 and not stop.requested:
    time.sleep(0.05)
left = stop.seconds_left
facts = {"epoch": run.epoch, "reason": stop.reason, "left": left if stop.requested else None}
(run.outputs / "saved.json").write_text(json.dumps(facts))
"""


def saved(client: Client, run: str, folder: Path, epoch: int = 0) -> dict[str, object]:
    client.runs.outputs(run, folder, epoch=epoch)
    facts: dict[str, object] = json.loads((folder / "saved.json").read_text())
    return facts


def test_a_preempted_program_saves_and_runs_again(client: Client, tmp_path: Path) -> None:
    run = client.runs.submit(submission(code_job(client, "preempted", SAVES))).name
    eventually(lambda: b"ready" in b"".join(piece.data for piece in client.logs.tail(run)), within=120)
    client.runs.preempt(run)
    ended = client.runs.wait(run)

    assert ended.state == runs_pb2.RUN_STATE_SUCCEEDED
    first, second = ended.attempts
    assert (first.failure.cause, first.exit_code) == (runs_pb2.FAILURE_CAUSE_PREEMPTED, 0)
    assert first.outputs != second.outputs == ended.outputs
    why = saved(client, run, tmp_path / "first", first.epoch)
    assert (why["epoch"], why["reason"]) == (first.epoch, "PREEMPTED")
    assert isinstance(why["left"], float)
    assert 0 < why["left"] <= 15
    facts = {"epoch": second.epoch, "reason": "", "left": None}
    assert saved(client, run, tmp_path / "whole") == facts


def test_a_program_whose_time_is_over_saves_and_is_tried_again(client: Client, tmp_path: Path) -> None:
    wanted = submission(code_job(client, "preempted", SAVES))
    wanted.limits.CopyFrom(time_limits(max_runtime=timedelta(seconds=2)))
    wanted.retry_policy.CopyFrom(retry_policy({"timeout": 1}, first_backoff=timedelta(milliseconds=100)))
    ended = client.runs.wait(client.runs.submit(wanted).name)

    assert ended.state == runs_pb2.RUN_STATE_SUCCEEDED
    first, _ = ended.attempts
    assert first.failure.cause == runs_pb2.FAILURE_CAUSE_TIMEOUT
    assert saved(client, ended.name, tmp_path, first.epoch)["reason"] == "TIMEOUT"
