"""Results of a run, as its program sets them."""

import json
import math
import os
from pathlib import Path

import pytest

from towline.runtime.summary import MOST_BYTES, Summary
from towline_testing.waiting import eventually


@pytest.fixture
def file(tmp_path):
    return tmp_path / "summary.json"


def written(file):
    return json.loads(file.read_bytes())


class Scalar:
    def item(self):
        return 0.5


class Array:
    def tolist(self):
        return [1, [2.0, math.inf]]


def test_values_are_written_as_json_holds_them(file):
    summary = Summary(file)
    summary["accuracy"] = Scalar()
    summary.update({"matrix": Array(), "best": {"path": Path("a/b"), "loss": math.nan}}, epochs=3)
    summary.flush()
    assert written(file) == {
        "accuracy": 0.5,
        "matrix": [1, [2.0, "Infinity"]],
        "best": {"path": "a/b", "loss": "NaN"},
        "epochs": 3,
    }
    assert summary["accuracy"] == 0.5
    assert len(summary) == 4
    assert list(file.parent.iterdir()) == [file]


def test_the_first_value_is_there_at_once_and_later_ones_within_a_second(file):
    summary = Summary(file)
    summary["a"] = 1
    assert written(file) == {"a": 1}
    summary["a"] = 2
    summary["b"] = 3
    assert written(file) == {"a": 1}
    eventually(lambda: written(file) == {"a": 2, "b": 3}, within=5)
    del summary["b"]
    summary.flush()
    assert written(file) == {"a": 2}


def test_a_loop_that_sets_values_writes_few_times(file, monkeypatch):
    writes = []
    replace = Path.replace
    monkeypatch.setattr(Path, "replace", lambda self, target: writes.append(1) or replace(self, target))
    summary = Summary(file)
    for step in range(100_000):
        summary["step"] = step
    summary.flush()
    assert written(file) == {"step": 99_999}
    assert len(writes) < 60  # one a second; a machine on which this takes a minute has other troubles


def test_a_nested_value_that_is_changed_later_is_written_too(file):
    summary = Summary(file)
    summary["eval"] = {"loss": 1.0}
    summary["eval"]["loss"] = Scalar()
    summary.flush()
    assert written(file) == {"eval": {"loss": 0.5}}


def test_what_cannot_be_kept_is_told_once_and_changes_nothing(file, capsys):
    summary = Summary(file)
    summary["ok"] = 1
    for _ in range(3):
        summary["act"] = len
        summary[3] = 1
    summary["long"] = "x" * MOST_BYTES
    summary.flush()
    assert written(file) == {"ok": 1}
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines] == [
        "towline: JSON cannot hold the result 'act'",
        "towline: JSON cannot hold the result 3",
        f"towline: the results are {MOST_BYTES + 21} bytes of JSON",
    ]
    del summary["long"]
    summary.flush()
    assert written(file) == {"ok": 1}


def test_a_later_program_of_the_same_run_adds_to_what_is_there(file):
    Summary(file)["a"] = 1
    again = Summary(file)
    again["b"] = 2
    again.flush()
    assert written(file) == {"a": 1, "b": 2}
    file.write_text("[")
    assert dict(Summary(file)) == {}


def test_a_forked_child_writes_nothing(file):
    summary = Summary(file)
    summary["a"] = 1
    child = os.fork()
    if child == 0:
        summary["a"] = 2
        summary.flush()
        os._exit(0)
    os.waitpid(child, 0)
    assert written(file) == {"a": 1}


def test_a_disk_that_takes_nothing_is_told_and_a_folder_that_is_gone_is_not(tmp_path, capsys):
    (tmp_path / "file").touch()
    wrong = Summary(tmp_path / "file" / "summary.json")
    for step in range(3):
        wrong["a"] = step
        wrong.flush()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("towline: the results are not written: NotADirectoryError")
    gone = Summary(tmp_path / "gone" / "summary.json")
    gone["a"] = 1
    gone.flush()
    assert capsys.readouterr().err == ""
    assert Summary(None).setdefault("a", 1) == 1
