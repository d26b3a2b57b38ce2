"""Real agents for tests: as a process that may be killed, and specs for them to run."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

from towline.v1 import docker_pb2, jobs_pb2, leases_pb2, runs_pb2
from towline_agent.core.ownership import attempt_key
from towline_testing.engine import PYTHON, base_image
from towline_testing.lease_peer import duration

IGNORES_SIGTERM = """
import signal, time
signal.signal(signal.SIGTERM, lambda *_: print("no", flush=True))
print("ready", flush=True)
while True: time.sleep(60)
"""


@dataclass
class AgentProcess:
    """`python -m towline_agent` with settings of a test's own."""

    folder: Path
    settings: dict[str, str] = field(default_factory=dict)
    name: str = field(default_factory=lambda: f"test-{uuid4().hex[:12]}")
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        defaults = {
            "TOWLINE_AGENT_AGENT": self.name,
            "TOWLINE_AGENT_DATA_DIR": str(self.folder),
            "TOWLINE_AGENT_LISTEN": f"unix:{self.folder}/s",
            "TOWLINE_AGENT_GPUS": "none",
            "TOWLINE_AGENT_REGISTRY_ADDRESS": "127.0.0.1:1",
        }
        if bundle := os.environ.get("SSL_CERT_FILE"):
            defaults["TOWLINE_AGENT_BUILD_CA_BUNDLE"] = bundle
        self.folder.mkdir(exist_ok=True)
        with self._log_file.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "towline_agent"],
                env=os.environ | defaults | self.settings,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def kill(self) -> None:
        """End it as a crash does."""
        assert self.process
        self.process.kill()
        self.process.wait()

    async def stop(self) -> int:
        """End it as an operator does; returns its exit status."""
        assert self.process
        self.process.send_signal(signal.SIGTERM)
        return await self.ended()

    async def ended(self, within: float = 20) -> int:
        """Wait for its end without holding up the test's own servers."""
        assert self.process
        return await asyncio.to_thread(self.process.wait, within)

    def attempt(self, grant: leases_pb2.Grant) -> Path:
        """Return the folder of an attempt in the journal."""
        return self.folder / "attempts" / attempt_key(grant.spec.run, grant.epoch)

    def deadlines(self) -> list[dict[str, Any]]:
        """Return what the agent wrote last of its leases' deadlines."""
        leases: list[dict[str, Any]] = json.loads((self.folder / "deadlines.json").read_text())["leases"]
        return leases

    def log(self) -> str:
        return self._log_file.read_text(errors="replace")

    @property
    def _log_file(self) -> Path:
        return self.folder.with_name(self.folder.name + ".log")


def image_spec(*command: str, run: str = "", **options: Any) -> runs_pb2.LaunchSpec:
    """Launch the base image with a command; `options` are DockerOptions'."""
    job = jobs_pb2.JobSpec(image=jobs_pb2.ImageSource(reference=base_image()), entrypoint=command)
    return launch_spec(job, run=run, **options)


def python_spec(script: str, **options: Any) -> runs_pb2.LaunchSpec:
    """Launch the base image with a Python program."""
    return image_spec("python3", "-c", script, **options)


def launch_spec(
    job: jobs_pb2.JobSpec, run: str = "", config: Any = None, grace_s: float = 5, **options: Any
) -> runs_pb2.LaunchSpec:
    return runs_pb2.LaunchSpec(
        run=run or f"runs/{uuid4().hex}",
        display_name="a run",
        job_version="jobs/test/versions/v0",
        queue="queues/default",
        job=job,
        config_json=json.dumps(config or {}),
        docker=docker_pb2.DockerOptions(**({"pids_limit": 512} | options)),
        stop_grace=duration(timedelta(seconds=grace_s)),
        dockerfile=job.dockerfile if job.HasField("dockerfile") else None,
    )


def code_spec(
    digest: str, size: int, *command: str, requirements: tuple[str, ...] = (), **fields: Any
) -> jobs_pb2.JobSpec:
    return jobs_pb2.JobSpec(
        code=jobs_pb2.CodeSource(digest=digest, size_bytes=size),
        entrypoint=command or ("python", "main.py"),
        python=jobs_pb2.PythonEnvironment(version=PYTHON, requirements=requirements),
        **fields,
    )
