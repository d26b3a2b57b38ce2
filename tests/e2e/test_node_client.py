"""A client in another language, made from protos/ alone, submits a run and follows its log."""

import json
import subprocess
from pathlib import Path

import pytest

from towline.client import Client
from towline_testing.jobs import code_job
from towline_testing.stack import Stack

pytestmark = [pytest.mark.docker, pytest.mark.postgres, pytest.mark.timeout(300)]

HERE = Path(__file__).parent / "node_client"
PROTOS = Path(__file__).resolve().parents[2] / "protos"


def test_node_client(client: Client, stack: Stack) -> None:
    script = "import towline; run = towline.init(config={'lr': 1.0}); print('lr is', run.config.lr)"
    job = code_job(client, "for-node", script, config={"lr": 0.1})
    subprocess.run(["npm", "ci", "--silent", "--no-audit", "--no-fund"], cwd=HERE, check=True)

    done = subprocess.run(
        [
            *("node", "client.js", PROTOS, stack.address("queue")),
            *(f"jobs/{job}", "queues/default", '{"lr": 0.25}'),
        ],
        cwd=HERE,
        capture_output=True,
        timeout=240,
        check=False,
    )

    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout == b"lr is 0.25\n"
    run = json.loads(done.stderr)
    assert (run["state"], run["author"]) == ("RUN_STATE_SUCCEEDED", "node")
