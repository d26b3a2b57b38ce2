"""A run that does nothing, from its submission to its end, beside `docker run --rm` of the same."""

import subprocess
import tempfile
import time
from pathlib import Path

from bench.images.subject import BASE
from towline.client import Client
from towline.v1 import jobs_pb2, queues_pb2, runs_pb2
from towline_testing.engine import remove_inputs
from towline_testing.postgres import PostgresServer
from towline_testing.stack import Stack

__all__ = ["measure_noop"]

COMMAND = "true"
PAUSE_S = 0.3


def measure_noop(postgres: PostgresServer, samples: int) -> dict[str, list[float]]:
    """Run, in turn; give seconds by side ("towline", "towline, with a parameter", "docker run")."""
    found: dict[str, list[float]] = {"towline": [], "towline, with a parameter": [], "docker run": []}
    postgres.psql("CREATE DATABASE bench_noop")
    with tempfile.TemporaryDirectory(prefix="towline-bench-") as folder:
        stack = Stack(Path(folder), postgres.url("bench_noop"), agent="bench-images")
        try:
            stack.start("registry", "queue")
            with stack.client() as client:
                source = jobs_pb2.ImageSource(reference=BASE)
                for job, parameters in (("jobs/noop", "{}"), ("jobs/noop-tuned", '{"lr": 0.1}')):
                    spec = jobs_pb2.JobSpec(image=source, entrypoint=[COMMAND], config_json=parameters)
                    client.jobs.create_version(job, spec)
                client.queues.create("default", queues_pb2.QueueSpec())
                stack.start("agent")
                for _ in range(samples + 1):
                    found["towline"].append(_run(client, "jobs/noop"))
                    time.sleep(PAUSE_S)  # until the container is removed
                    found["towline, with a parameter"].append(_run(client, "jobs/noop-tuned"))
                    time.sleep(PAUSE_S)
                    found["docker run"].append(_docker_run())
                    time.sleep(PAUSE_S)
        finally:
            stack.stop_all()
            remove_inputs(stack.folder / stack.agent)
    return {side: seconds[1:] for side, seconds in found.items()}  # the first ones warm up


def _run(client: Client, job: str) -> float:
    began = time.perf_counter()
    run = client.runs.submit(runs_pb2.RunSubmission(job=job, queue="queues/default"))
    for seen in client.runs.watch(run.name):
        run = seen
    seconds = time.perf_counter() - began
    if run.state != runs_pb2.RUN_STATE_SUCCEEDED:
        raise RuntimeError(f"the run did not succeed: {run.failure.message}")
    return seconds


def _docker_run() -> float:
    began = time.perf_counter()
    subprocess.run(["docker", "run", "--rm", BASE, COMMAND], check=True)
    return time.perf_counter() - began
