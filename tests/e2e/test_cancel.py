"""A stop stops: a silent program, one that ignores SIGTERM, one that has not started."""

import pytest

from towline.client import Client
from towline.v1 import runs_pb2
from towline_testing.jobs import code_job, submission
from towline_testing.waiting import eventually

pytestmark = [pytest.mark.docker, pytest.mark.postgres, pytest.mark.timeout(300)]

SILENT = "import signal; signal.pause()"
STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready", flush=True)
while True:
    time.sleep(1)
"""
SAVES = """
import os, pathlib, signal, sys
def save(*_):
    pathlib.Path(os.environ["TOWLINE_OUTPUTS"], "checkpoint").write_text("saved")
    sys.exit(0)
signal.signal(signal.SIGTERM, save)
print("ready", flush=True)
signal.pause()
"""


def running(client: Client, job: str) -> str:
    name = client.runs.submit(submission(job)).name
    eventually(lambda: client.runs.get(name).state == runs_pb2.RUN_STATE_RUNNING, within=120)
    return name


@pytest.mark.parametrize(("name", "script"), [("silent", SILENT), ("stubborn", STUBBORN)])
def test_running_program_is_stopped(client: Client, name: str, script: str) -> None:
    run = running(client, code_job(client, name, script))

    client.runs.cancel(run)
    ended = client.runs.wait(run)

    assert ended.state == runs_pb2.RUN_STATE_CANCELLED
    assert ended.failure.cause == runs_pb2.FAILURE_CAUSE_CANCELLED
    assert [attempt.outcome for attempt in ended.attempts] == [runs_pb2.ATTEMPT_OUTCOME_CANCELLED]


def test_outputs_of_a_stopped_program_are_kept(client: Client, tmp_path) -> None:
    run = running(client, code_job(client, "saves", SAVES))
    eventually(lambda: b"ready" in b"".join(piece.data for piece in client.logs.tail(run)))

    client.runs.cancel(run)
    assert client.runs.wait(run).state == runs_pb2.RUN_STATE_CANCELLED

    client.runs.outputs(run, tmp_path)
    assert (tmp_path / "checkpoint").read_text() == "saved"


def test_waiting_run_is_cancelled_at_once(client: Client) -> None:
    job = code_job(client, "waits", "")
    client.queues.pause("default")
    try:
        run = client.runs.submit(submission(job)).name
        assert client.runs.cancel(run).state == runs_pb2.RUN_STATE_CANCELLED
    finally:
        client.queues.resume("default")
    assert not client.runs.get(run).attempts


def test_cancelled_while_its_image_is_built(client: Client) -> None:
    job = code_job(client, "slow-build", "", requirements=("scipy==1.17.1", "pandas==2.3.3"))
    run = client.runs.submit(submission(job)).name
    eventually(lambda: client.runs.get(run).state == runs_pb2.RUN_STATE_PREPARING, within=60)

    client.runs.cancel(run)

    assert client.runs.wait(run).state == runs_pb2.RUN_STATE_CANCELLED
