"""The queue's benchmark, tiny and without its peers: that it measures, not what."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TINY = (
    *("--rounds", "2", "--submitted", "2000", "--drained", "200", "--drain-slots", "8,16"),
    *("--samples", "24", "--load-seconds", "1"),
    *("--deep", "600", "--before", "200", "--backlog-rounds", "1", "--backlog-runs", "240"),
    *("--sessions", "6", "--fleet-processes", "2", "--holders", "2", "--idle-seconds", "1"),
)
RATES = {"submit_per_s", "drain_per_s", "dispatch_p50_ms", "dispatch_p99_ms", "half_load_dispatch_p50_ms"}
RATIOS = {
    "deep_drain_ratio",
    "deep_dispatch_ratio",
    "held_snapshot_drain_ratio",
    "held_snapshot_dispatch_ratio",
}


@pytest.mark.postgres
@pytest.mark.timeout(300)  # it starts each service up to three times
@pytest.mark.parametrize(
    ("only", "expected"),
    [
        ("submit,drain,dispatch,load", RATES),
        ("backlog", RATIOS),
        ("scale", {"rss_per_session_kib", "storm_seconds"}),
    ],
    ids=["comparison", "backlog", "scale"],
)
def test_the_benchmark_measures(only: str, expected: set[str], tmp_path: Path):
    command = [sys.executable, "-m", "bench.queue", "--only", only, "--results", tmp_path, *TINY]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    headline = json.loads(done.stdout.splitlines()[-1])
    assert {name for name in expected if headline[name] > 0} == expected
    assert headline == json.loads((tmp_path / "queue.json").read_text())["headline"]
    if only == "scale":
        assert headline["sessions"] == 6
        assert headline["storm_lost"] == 0
