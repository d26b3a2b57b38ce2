"""What goes wrong in a job is told by cause, with the lines that show it; nothing else is harmed."""

import pytest

from towline.client import Client
from towline.v1 import logs_pb2, runs_pb2
from towline_testing.jobs import code_job, image_job, submission

pytestmark = [pytest.mark.docker, pytest.mark.postgres, pytest.mark.timeout(300)]


def finished(client: Client, job: str, **config: object) -> runs_pb2.Run:
    return client.runs.wait(client.runs.submit(submission(job, **config)).name)


def test_failing_script(client: Client) -> None:
    job = code_job(client, "fails", "import sys; print('before'); sys.exit(7)")

    run = finished(client, job)

    assert (run.state, run.failure.cause) == (runs_pb2.RUN_STATE_FAILED, runs_pb2.FAILURE_CAUSE_USER_ERROR)
    assert run.failure.exit_code == run.attempts[0].exit_code == 7
    assert run.failure.log_tail == "before\n"
    assert len(run.attempts) == 1


def test_script_that_does_not_exist(client: Client) -> None:
    run = finished(client, code_job(client, "no-script", "", command=("python", "other.py")))

    assert run.failure.cause == runs_pb2.FAILURE_CAUSE_USER_ERROR
    assert "other.py" in run.failure.log_tail


def test_command_that_does_not_exist(client: Client) -> None:
    run = finished(client, code_job(client, "no-command", "", command=("no-such-command", "x")))

    assert run.failure.cause == runs_pb2.FAILURE_CAUSE_USER_ERROR
    assert "no-such-command" in run.failure.message


def test_out_of_memory(client: Client) -> None:
    hungry = "x = bytearray(4 * 1024**3); print(len(x))"

    run = finished(client, code_job(client, "hungry", hungry))

    assert run.failure.cause == runs_pb2.FAILURE_CAUSE_OOM
    assert "1024 MiB" in run.failure.message


def test_image_that_does_not_exist(client: Client) -> None:
    reference = "localhost:1/no/such-image:v1"

    run = finished(client, image_job(client, "no-image", reference))

    assert run.failure.cause == runs_pb2.FAILURE_CAUSE_IMAGE_PULL
    assert reference in run.failure.message


def test_dependency_that_cannot_be_installed(client: Client) -> None:
    requirement = "towline-no-such-package==1.0"

    run = finished(client, code_job(client, "no-package", "", requirements=(requirement,)))

    assert run.failure.cause == runs_pb2.FAILURE_CAUSE_IMAGE_BUILD
    assert "towline-no-such-package" in run.failure.log_tail
    build = b"".join(piece.data for piece in client.logs.tail(run.name, stream=logs_pb2.LOG_STREAM_BUILD))
    assert b"towline-no-such-package" in build


def test_python_version_without_a_base_image(client: Client) -> None:
    job = code_job(client, "old-python", "")
    spec = client.jobs.get(job).spec
    spec.python.version = "3.2"
    client.jobs.create_version(job, spec)

    run = finished(client, job)

    assert run.failure.cause in (runs_pb2.FAILURE_CAUSE_IMAGE_PULL, runs_pb2.FAILURE_CAUSE_IMAGE_BUILD)
    assert "3.2" in run.failure.message


def test_nothing_of_the_agent_leaks_into_the_container(client: Client) -> None:
    script = "import os; print(*os.environ, os.getuid(), open('/proc/1/comm').read(), sep='\\n')"

    run = finished(client, code_job(client, "environment", script))

    assert run.state == runs_pb2.RUN_STATE_SUCCEEDED, run.failure
    printed = b"".join(piece.data for piece in client.logs.tail(run.name)).decode().split()
    assert not [name for name in printed if name.startswith("TOWLINE_AGENT")]
    assert "SSL_CERT_FILE" not in printed
    assert "1000" in printed  # not root
    assert "python" not in printed  # an init process is PID 1
