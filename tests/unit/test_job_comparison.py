"""What `towline job diff` finds between two versions, and between two source trees."""

import io
import tarfile
from pathlib import Path

import pytest

from towline.comparison.specs import Change, Kind, compare
from towline.comparison.trees import MOST_LINES, compare_trees
from towline.v1 import jobs_pb2

DIGEST = "sha256:" + "0" * 64


def spec(**fields):
    given = {
        "code": jobs_pb2.CodeSource(digest=DIGEST, size_bytes=1),
        "entrypoint": ["python", "train.py"],
        "python": jobs_pb2.PythonEnvironment(version="3.11", requirements=["numpy==2.0", "scipy==1.1"]),
        "config_json": '{"lr": 0.1, "model": {"depth": 2, "layers": [1, 2]}}',
        "input_schema_json": '{"type": "object"}',
        "inputs": [jobs_pb2.ArtifactInput(name="data", artifact="artifacts/digits/versions/v0")],
    }
    return jobs_pb2.JobSpec(**(given | fields))


def test_equal_contents_do_not_differ_whatever_their_provenance():
    assert compare(spec(), spec(provenance=jobs_pb2.Provenance(git_commit="a" * 40))) == []
    assert compare(spec(), spec(config_json='{"model":{"layers":[1,2],"depth":2},"lr":0.1}')) == []


@pytest.mark.parametrize(
    ("fields", "changes"),
    [
        (
            {"config_json": '{"lr": 0.1, "model": {"depth": 3, "layers": [1]}, "a b": null}'},
            [
                Change("config", '"a b"', Kind.ADDED, None, None),
                Change("config", "model.depth", Kind.CHANGED, 2, 3),
                Change("config", "model.layers", Kind.CHANGED, [1, 2], [1]),
            ],
        ),
        (
            {"config_json": '{"lr": 0.1, "model": {"depth": 2.0, "layers": [1, 2]}}'},
            [Change("config", "model.depth", Kind.CHANGED, 2, 2.0)],
        ),
        (
            {"config_json": '{"lr": 0.1}'},
            [Change("config", "model", Kind.REMOVED, {"depth": 2, "layers": [1, 2]}, None)],
        ),
        (
            {
                "python": jobs_pb2.PythonEnvironment(
                    version="3.12", requirements=["Num.Py==2.1", "numpy==2.0"]
                )
            },
            [
                Change("python", "version", Kind.CHANGED, "3.11", "3.12"),
                Change("dependencies", "num-py", Kind.ADDED, None, "2.1"),
                Change("dependencies", "scipy", Kind.REMOVED, "1.1", None),
            ],
        ),
        (
            {"inputs": [jobs_pb2.ArtifactInput(name="data", artifact="artifacts/digits/versions/v1")]},
            [Change("inputs", "data", Kind.CHANGED, "digits:v0", "digits:v1")],
        ),
        (
            {"entrypoint": ["python", "eval.py"], "working_dir": "jobs"},
            [
                Change("command", "entrypoint", Kind.CHANGED, ["python", "train.py"], ["python", "eval.py"]),
                Change("command", "working_dir", Kind.ADDED, None, "jobs"),
            ],
        ),
        (
            {"input_schema_json": '{"type": "object", "properties": {"lr": {"maximum": 1}}}'},
            [Change("schema", "properties", Kind.ADDED, None, {"lr": {"maximum": 1}})],
        ),
        (
            {"image": jobs_pb2.ImageSource(reference="a:b")},
            [
                Change("source", "digest", Kind.REMOVED, DIGEST, None),
                Change("source", "kind", Kind.CHANGED, "code", "image"),
                Change("source", "reference", Kind.ADDED, None, "a:b"),
            ],
        ),
        (
            {
                "config_files": [jobs_pb2.ConfigFile(path="a.yaml", key="a")],
                "hints": jobs_pb2.ResourceHints(gpus=2),
            },
            [
                Change("config files", "a.yaml", Kind.ADDED, None, "a"),
                Change("resources", "gpus", Kind.ADDED, None, 2),
            ],
        ),
    ],
)
def test_each_part_is_compared(fields, changes):
    assert compare(spec(), spec(**fields)) == changes


def tree(folder: Path, name: str, files: dict[str, object]) -> Path:
    """Write an archive; a file is bytes, or (bytes, mode), a link the text "-> target"."""
    archive = folder / name
    with tarfile.open(archive, "w") as tar:
        for path, content in files.items():
            member = tarfile.TarInfo(path)
            if isinstance(content, str):
                member.type, member.linkname = tarfile.SYMTYPE, content.removeprefix("-> ")
                tar.addfile(member)
                continue
            data, member.mode = content if isinstance(content, tuple) else (content, 0o644)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return archive


def changes_of(tmp_path, before, after):
    return compare_trees(tree(tmp_path, "a.tar", before), tree(tmp_path, "b.tar", after))


def test_files_are_compared_with_the_lines_that_changed(tmp_path):
    before = {
        "train.py": b"import a\nlr = 1\n",
        "old.py": b"x\n",
        "same": b"s",
        "run.sh": (b"r", 0o644),
        "l": "-> same",
    }
    after = {
        "train.py": b"import a\nlr = 2",
        "new.py": b"y\n",
        "same": b"s",
        "run.sh": (b"r", 0o755),
        "l": "-> run.sh",
    }

    found = {change.path: change for change in changes_of(tmp_path, before, after)}

    assert list(found) == ["l", "new.py", "old.py", "run.sh", "train.py"]
    assert found["train.py"].diff == (
        "--- a/train.py\n+++ b/train.py\n@@ -1,2 +1,2 @@\n import a\n-lr = 1\n+lr = 2\n"
        "\\ No newline at end of file\n"
    )
    assert (found["new.py"].kind, found["new.py"].before) == (Kind.ADDED, None)
    assert (found["old.py"].kind, found["old.py"].after) == (Kind.REMOVED, None)
    assert found["run.sh"].diff == ""
    assert found["run.sh"].after.executable
    assert found["l"].diff.endswith("--> same\n+-> run.sh\n")


def test_binary_and_large_files_are_only_named(tmp_path):
    long = b"".join(b"%d\n" % number for number in range(MOST_LINES + 1))
    before = {"b": b"\0a", "l": b"\xff", "w": b"x\n" * 400_000, "many": b""}
    after = {"b": b"\0b", "l": b"\xfe", "w": b"y\n" * 400_000, "many": long}

    found = changes_of(tmp_path, before, after)

    assert [(change.path, change.diff) for change in found] == [("b", ""), ("l", ""), ("many", ""), ("w", "")]


def test_all_diffs_together_are_bounded(tmp_path):
    lines = b"".join(b"%d\n" % number for number in range(MOST_LINES - 10))

    found = changes_of(tmp_path, {}, {f"{number:02}": lines for number in range(20)})

    assert len(found) == 20
    assert sum(bool(change.diff) for change in found) == 10
