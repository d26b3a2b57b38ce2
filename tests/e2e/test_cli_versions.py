"""Versions as people handle them on the command line: what differs, aliases, lineage, what may be deleted."""

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from towline.client import Client
from towline_testing.command import towline
from towline_testing.engine import base_image
from towline_testing.stack import Stack

pytestmark = [pytest.mark.docker, pytest.mark.postgres, pytest.mark.timeout(300)]

Command = Callable[..., "subprocess.CompletedProcess[str]"]

# Reads one artifact and makes another, with what agents put into every container.
PREPARE: Final = """
import pathlib, towline
run = towline.init()
text = (run.use_artifact("raw") / "a.txt").read_text()
pathlib.Path("/tmp/clean.txt").write_text(text.upper())
run.log_artifact("/tmp/clean.txt", name="clean", type="dataset")
run.summary["letters"] = len(text)
"""


@pytest.fixture
def command(stack: Stack, tmp_path: Path) -> Command:
    def command(*words: str | Path, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = towline(*words, env=stack.client_environment, cwd=tmp_path)
        assert done.returncode == code, (words, done.stdout, done.stderr)
        return done

    return command


def test_lineage_is_drawn_and_what_is_read_cannot_be_deleted(command: Command, tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "a.txt").write_text("abc")
    command("artifact", "put", "raw", "--name", "raw", "--type", "dataset", "--alias", "good")
    command("job", "create", "image", base_image(), "--name", "prepare", "--", "python", "-c", PREPARE)

    run = command("submit", "prepare", "--input", "raw=raw:good").stdout.strip()
    command("run", "wait", run)

    assert command("artifact", "lineage", "raw").stdout.splitlines() == [
        "raw:v0 (dataset, 1 file, 3 B)",
        "├── made by hand",
        "└── read by",
        f"    └── run {run} of prepare:v0",
        "        └── which made clean:v0 (dataset)",
    ]
    assert command("artifact", "lineage", "clean").stdout.splitlines()[1:] == [
        f"├── made by run {run} of prepare:v0",
        "│   └── which read raw:v0 (dataset)",
        "└── read by no run yet",
    ]
    lineage = json.loads(command("artifact", "lineage", "raw:good", "--json").stdout)
    assert [use["run"] for use in lineage["uses"]] == [f"runs/{run}"]
    shown = command("artifact", "show", "clean").stdout
    assert re.search(rf"by +run {run} of prepare:v0\n", shown)
    assert re.search(r"files +clean\.txt +3 B\n", shown)

    command("artifact", "alias", "--delete", "raw:good")
    in_use = command("artifact", "delete", "raw:v0", code=4)
    assert "error: artifact 'raw:v0' is in use" in in_use.stderr
    assert run in in_use.stderr
    listed = json.loads(command("artifact", "list", "--type", "dataset", "--json").stdout)
    assert {"artifacts/raw", "artifacts/clean"} <= {each["name"] for each in listed}


def test_names_of_artifacts_are_completed(command: Command, stack: Stack, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    command("artifact", "put", "a.txt", "--name", "completed", "--type", "dataset", "--alias", "good")

    def completed(words: str) -> list[str]:
        variables = {"_TOWLINE_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": "3"}
        done = towline(env=stack.client_environment | variables)
        return done.stdout.split()

    assert completed("towline artifact lineage comple") == ["completed"]
    assert completed("towline artifact show completed:g") == ["completed:good"]


def test_two_versions_are_compared(command: Command, tmp_path: Path, client: Client) -> None:
    script = tmp_path / "src" / "fit.py"
    script.parent.mkdir()
    script.write_text("print(1)\n")
    create = ("job", "create", "code", "--name", "fit", "--config", "c.yaml", "--requirements", "r.txt")
    (tmp_path / "c.yaml").write_text("lr: 0.1\n")
    (tmp_path / "r.txt").write_text("pyyaml==6.0\n")
    command(*create, "--", "python", "src/fit.py")
    script.write_text("print(2)\n")
    (tmp_path / "c.yaml").write_text("lr: 0.1\nmodel: {depth: 2}\n")
    (tmp_path / "r.txt").write_text("pyyaml==6.0.1\n")
    command(*create, "--", "python", "src/fit.py", "--fast")

    found = command("job", "diff", "fit:v0", "fit:v1", code=1).stdout
    same = command("job", "diff", "fit").stdout
    as_json = json.loads(command("job", "diff", "fit:v0", "--json", code=1).stdout)

    assert found.startswith("fit:v0 → fit:v1\nsource\n")
    assert (
        "\n  ~ src/fit.py\n    --- a/src/fit.py\n    +++ b/src/fit.py\n    @@ -1 +1 @@\n    -print(1)\n"
        in found
    )
    assert "\ndependencies\n  ~ pyyaml 6.0 → 6.0.1\nconfig\n  + model " in found
    assert "--fast" in found
    assert same == "fit:v1 and fit:v1 are equal\n"
    assert not as_json["equal"]
    assert {change["section"] for change in as_json["changes"]} >= {
        "source",
        "command",
        "dependencies",
        "config",
    }
    assert [file["path"] for file in as_json["files"]] == ["c.yaml", "r.txt", "src/fit.py"]


def test_aliases_move_only_from_where_they_are_expected(command: Command) -> None:
    for text in ("one", "two"):
        command("job", "create", "image", base_image(), "--name", "said", "--", "echo", text)

    assert command("job", "alias", "said:v0", "best", "--expect", "none").stdout == "best is said:v0\n"
    moved = command("job", "alias", "said:v1", "best", "--expect", "none", code=4)
    assert "the alias 'best' of job 'said' is not as expected: it points at v0" in moved.stderr
    assert command("job", "alias", "said:v1", "best", "--expect", "v0").stdout == "best is said:v1\n"
    refused = command("job", "delete", "said:v1", code=4)
    assert "job 'said:v1' is in use" in refused.stderr
    assert command("job", "alias", "said", "best", "--delete").stdout == "took away said:best\n"
    command("job", "alias", "said:v1", "best", "--expect", "v1", code=4)
    assert command("job", "delete", "said:v0").stdout == "deleted said:v0\n"
    assert "said:v0" not in command("job", "show", "said").stdout


def test_retention_is_set_and_taken_back(command: Command, client: Client) -> None:
    command("job", "create", "image", base_image(), "--name", "kept", "--", "echo", "1")

    said = command("job", "retention", "kept", "--keep-newest", "3", "--keep-for", "90d").stdout

    assert "the newest 3 and those younger than 90d" in said
    (job,) = (each for each in client.jobs.list() if each.name == "jobs/kept")
    assert (job.retention.keep_newest, job.retention.keep_for.seconds) == (3, 90 * 86400)
    assert "all versions are kept" in command("job", "retention", "kept", "--none").stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("job", "diff", "nowhere"), "there is no job 'nowhere'"),
        (("job", "alias", "nowhere:v0", "a"), "there is no job 'nowhere'"),
        (("job", "alias", "said:v0"), "ALIAS: name the alias that is to point at said:v0"),
        (("job", "alias", "--delete", "said"), "ALIAS: name the alias that is to go: said:ALIAS"),
        (("job", "alias", "--delete", "said:best", "--expect", "v1"), "--expect"),
        (("job", "delete", "said"), "VERSION: name the version itself, such as said:v0"),
        (("job", "retention", "said"), "say what is kept"),
        (("job", "retention", "said", "--none", "--keep-newest", "1"), "--none: it keeps all"),
        (("job", "retention", "said", "--keep-for", "90"), "has no unit"),
        (("artifact", "show", "no such"), "is not the name of an artifact"),
        (("artifact", "lineage", "nowhere"), "there is no artifact 'nowhere'"),
        (("artifact", "alias", "nowhere:v0", "v1"), "alias"),
        (("artifact", "delete", "nowhere"), "VERSION: name the version itself, such as nowhere:v0"),
    ],
)
def test_what_is_wrong_is_said(command: Command, words: tuple[str, ...], said: str) -> None:
    error = command(*words, code=2).stderr

    assert said in error
    assert len(error.splitlines()) == 1
