"""Ignore files are read as git reads them: git is asked."""

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from towline.capture.ignore import IgnoreFiles
from towline.capture.source import take_snapshot
from towline.capture.tree import list_tree
from towline_testing.checkouts import SourceTree, git_checkout

PATHS = (
    *("a.py", "a.bin", "keep.bin", "data/x.csv", "data/keep.csv", "data/sub/y.csv", "src/a.py", "src/a.bin"),
    *(
        "src/data/x.csv",
        "src/build/out.o",
        "build/out.o",
        "src/lib/deep/er.txt",
        "docs/index.md",
        "logs/a.log",
    ),
    *("logs/keep/b.log", "src/keep.bin", "a b.txt", "#hash", "!bang", "x[1].py"),
)
PATTERNS = (
    *(
        "*.bin",
        "!keep.bin",
        "data/",
        "/data/",
        "data",
        "!data/keep.csv",
        "/data/*",
        "!/data/sub/",
        "**/build",
    ),
    *(
        "src/**",
        "!src/lib/",
        "src/*",
        "/src/lib/**/er.txt",
        "*",
        "!*/",
        "!*.py",
        "!*.md",
        "logs/**",
        "!logs/keep",
    ),
    *(
        "logs/*",
        "a?b.txt",
        "a b.txt",
        "\\#hash",
        "\\!bang",
        "x[[]1].py",
        "# comment",
        "",
        "keep*",
        "!/src/keep.bin",
    ),
    *(
        "**/deep/**",
        "deep",
        "!deep/",
        "*.csv",
        "!y.csv",
        "trailing ",
        "/*",
        "!",
        "/",
        "[",
        "x[",
        "\\",
        "!/src",
        "doc*/",
    ),
)
lines = st.lists(st.sampled_from(PATTERNS), max_size=6)


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> SourceTree:
    tree = git_checkout(tmp_path_factory.mktemp("ignored"))
    tree.write(dict.fromkeys(PATHS, ""))
    return tree


@settings(max_examples=60, deadline=None)
@given(top=lines, src=lines, data=lines)
def test_what_git_ignores_is_left_out_and_nothing_else(repository, top, src, data):
    files = {".gitignore": top, "src/.gitignore": src, "data/.gitignore": data}
    for path, content in files.items():
        (repository.root / path).write_text("".join(f"{line}\n" for line in content))
    answer = subprocess.run(
        ["git", "ls-files", "--others", "--exclude-standard", "-z"],
        cwd=repository.root,
        env=os.environ | {"GIT_CONFIG_GLOBAL": os.devnull},
        capture_output=True,
        check=True,
        text=True,
    )
    listed = {path for path in answer.stdout.split("\0") if path in PATHS}
    ours = IgnoreFiles(".gitignore", lambda path: files.get(path, ()))
    assert {path for path in PATHS if not ours.say(path)} == listed
    assert {entry.path for entry in list_tree(repository.root, checkout=False).entries} & {*PATHS} == listed


@pytest.mark.parametrize("checkout", [True, False])
def test_ignore_files_in_sub_folders_count_and_go_over_those_above(tmp_path, monkeypatch, checkout):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    tree = git_checkout(tmp_path / "project") if checkout else SourceTree(tmp_path / "project")
    tree.write(
        {
            ".gitignore": "*.tmp\n/models/*\n!/models/small.bin\n",
            "models/large.bin": "l",
            "models/small.bin": "s",
            "sub/.gitignore": "!keep.tmp\n",
            "sub/keep.tmp": "k",
            "sub/other.tmp": "o",
            ".towlineignore": "*.csv\nout/\n",
            "data/.towlineignore": "!train.csv\nraw/\n",
            "data/train.csv": "t",
            "data/test.csv": "t",
            "data/raw/train.csv": "r",
            "out/train.csv": "o",
            "out/.towlineignore": "!train.csv\n",
            "certs/.towlineignore": "!public.pem\n",
            "certs/public.pem": "p",
            "certs/private.pem": "q",
        }
    )
    snapshot = take_snapshot(tree.root, checkout=checkout)
    kept = {path for path in snapshot.paths if not Path(path).name.startswith(".")}
    assert kept == {"models/small.bin", "sub/keep.tmp", "data/train.csv", "certs/public.pem"}
    (warning,) = snapshot.warnings
    assert warning.endswith(": certs/private.pem")
