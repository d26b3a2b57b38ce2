"""The artifacts' benchmark, tiny: that it measures, not what."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TINY = ("--rounds", "1", "--files", "300", "--large-mib", "8")
RATES = {
    f"{step}_{rate}"
    for step in ("cp", "sha256sum", "upload", "second_upload", "download")
    for rate in ("small_files_per_s", "large_mib_per_s")
}


@pytest.mark.postgres
@pytest.mark.timeout(300)  # it starts the registry eight times
def test_the_benchmark_measures(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bench.artifacts", "--folder", tmp_path, "--results", tmp_path, *TINY]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    headline = json.loads(done.stdout.splitlines()[-1])
    assert {name for name in RATES if headline[name] > 0} == RATES
    assert headline["identical"] is True
    assert headline["resume_client_ok"] is True
    assert headline["resume_registry_ok"] is True
    assert 0 < headline["second_upload_bytes_fraction"] < 0.05
    assert headline == json.loads((tmp_path / "artifacts.json").read_text())["headline"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["artifacts.json"]
