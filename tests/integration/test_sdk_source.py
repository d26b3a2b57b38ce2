"""Snapshots of real source trees."""

import os
import tarfile
from pathlib import Path

import pytest

from towline.capture import sizes
from towline.capture.source import Snapshot, take_snapshot
from towline.errors import FailedPrecondition
from towline_testing.checkouts import SourceTree, git_checkout


@pytest.fixture
def checkout(tmp_path: Path) -> SourceTree:
    return git_checkout(tmp_path / "project")


@pytest.fixture
def folder(tmp_path: Path) -> SourceTree:
    (tmp_path / "plain").mkdir()
    return SourceTree(tmp_path / "plain")


@pytest.fixture
def snap(tmp_path, monkeypatch):
    """Take snapshots whose archives go with the test."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def snap(tree: SourceTree, **options) -> Snapshot:
        return take_snapshot(tree.root, checkout=(tree.root / ".git").exists(), **options)

    return snap


def contents(snapshot: Snapshot) -> dict[str, bytes]:
    with tarfile.open(snapshot.archive) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar if member.isfile()}


def test_committed_changed_and_new_files_are_in_and_ignored_and_deleted_ones_are_not(checkout, snap):
    commit = checkout.commit(
        {"train.py": "old", "gone.py": "x", "lib/a.py": "a", ".gitignore": "*.log\ndata/\n", "kept.log": "y"}
    )
    checkout.git("add", "--force", "kept.log")
    checkout.git("remote", "add", "origin", "https://ada:secret@host.example/project.git")
    checkout.write(
        {"train.py": "new", "lib/new.py": "n", "run.log": "l", "data/big.bin": "b", "lib/data/x": "x"}
    )
    (checkout.root / "gone.py").unlink()
    snapshot = snap(checkout)
    assert contents(snapshot) == {
        ".gitignore": b"*.log\ndata/\n",
        "kept.log": b"y",
        "lib/a.py": b"a",
        "lib/new.py": b"n",
        "train.py": b"new",
    }
    assert snapshot.warnings == ()
    found = snapshot.checkout
    assert (found.commit, found.branch, found.dirty) == (commit, "main", True)
    assert found.remote == "https://host.example/project.git"


def test_a_clean_checkout_says_so_and_one_without_commits_has_none(checkout, snap):
    checkout.write({"train.py": "x"})
    before = snap(checkout).checkout
    assert (before.commit, before.dirty) == ("", True)
    commit = checkout.commit({})
    after = snap(checkout).checkout
    assert (after.commit, after.dirty, after.remote) == (commit, False, "")
    checkout.git("checkout", "--quiet", "--detach")
    assert snap(checkout).checkout.branch == ""


def test_submodules_and_inner_repositories_are_in_with_their_files(checkout, snap, tmp_path):
    library = git_checkout(tmp_path / "library")
    library.commit({"lib.py": "1", ".gitignore": "*.tmp"})
    checkout.commit({"train.py": "x"})
    checkout.git("submodule", "--quiet", "add", library.root, "vendor/library")
    checkout.write({"vendor/library/new.py": "2", "vendor/library/a.tmp": "t"})
    git_checkout(checkout.root / "inner").commit({"inner.py": "3"})
    assert contents(snap(checkout)).keys() == {
        ".gitmodules",
        "inner/inner.py",
        "train.py",
        "vendor/library/.gitignore",
        "vendor/library/lib.py",
        "vendor/library/new.py",
    }


def test_a_checkout_of_another_user_is_read(checkout, snap):
    checkout.commit({"train.py": "x"})
    for path in [checkout.root, *checkout.root.rglob("*")]:
        os.lchown(path, 12345, 12345)
    assert contents(snap(checkout)).keys() == {"train.py"}
    assert snap(checkout).checkout.commit


def test_a_plain_folder_is_taken_whole_but_for_what_is_no_source(folder, snap):
    folder.write(
        {
            "train.py": "x",
            "pkg/__init__.py": "",
            "pkg/__pycache__/a.pyc": "c",
            "venv/pyvenv.cfg": "",
            "venv/lib/site.py": "s",
            "node_modules/a.js": "",
            "towline-outputs/1/model": "m",
            "results/model": "m",
            "data/a.csv": "1",
            ".towlineignore": "data/\n",
        }
    )
    snapshot = snap(folder, excluded=[folder.root / "results"])
    assert contents(snapshot).keys() == {".towlineignore", "pkg/__init__.py", "train.py"}
    assert snapshot.checkout.commit == ""


def test_towlineignore_narrows_what_git_lists(checkout, snap):
    checkout.commit(
        {"train.py": "x", "weights.bin": "w", "keep.bin": "k", ".towlineignore": "*.bin\n!keep.bin\n"}
    )
    checkout.write({"venv/pyvenv.cfg": "", "venv/bin/activate": "a"})
    assert contents(snap(checkout)).keys() == {".towlineignore", "keep.bin", "train.py"}


@pytest.mark.parametrize("kind", ["checkout", "folder"])
def test_secrets_are_left_out_with_a_warning_unless_they_are_wanted(kind, snap, request):
    tree = request.getfixturevalue(kind)
    tree.write({"train.py": "x", ".env": "TOKEN=1", "certs/ca.pem": "p", "certs/key.pem": "q"})
    tree.write({".towlineignore": "!certs/ca.pem\n"})
    snapshot = snap(tree)
    assert contents(snapshot).keys() == {".towlineignore", "certs/ca.pem", "train.py"}
    (warning,) = snapshot.warnings
    assert "looks like a secret" in warning
    assert warning.endswith(": .env, certs/key.pem")


@pytest.mark.parametrize("kind", ["checkout", "folder"])
def test_links_are_kept_where_they_stay_inside(kind, snap, request, tmp_path):
    tree = request.getfixturevalue(kind)
    (tmp_path / "outside").write_text("o")
    tree.write({"a/data.txt": "d", "b/x": ""})
    links = {
        "b/in": "../a/data.txt",
        "folder": "a",
        "out": "../outside",
        "b/far": "../../outside",
        "absolute": str(tree.root / "a/data.txt"),
        "b/top": str(tree.root),
        "b/beside": f"{tree.root}x/a",
        "b/over": str(tree.root / "a/../../outside"),
        "through": "folder/../../outside",
    }
    for name, target in links.items():
        (tree.root / name).symlink_to(target)
    snapshot = snap(tree)
    with tarfile.open(snapshot.archive) as tar:
        kept = {member.name: member.linkname for member in tar if member.issym()}
    inside = {"b/in": "../a/data.txt", "folder": "a"}
    assert kept == inside | {"absolute": "a/data.txt", "b/top": ".."}, "as they lead from anywhere"
    (warning,) = snapshot.warnings
    assert warning.endswith(": b/beside, b/far, b/over, out, through")


@pytest.mark.parametrize("kind", ["checkout", "folder"])
def test_names_that_are_not_utf_8_are_kept_byte_for_byte(kind, snap, request):
    tree = request.getfixturevalue(kind)
    names = {b"gr\xc3\xb6sse.txt", b"bad-\xff.txt", b"\xe9t\xe9/x.py", b"README", b"readme"}
    tree.write({os.fsdecode(name): name for name in names})
    (tree.root / os.fsdecode(b"link-\xfe")).symlink_to(os.fsdecode(b"bad-\xff.txt"))
    snapshot = snap(tree)
    assert contents(snapshot) == {os.fsdecode(name): name for name in names}
    assert snapshot.warnings == ()
    with tarfile.open(snapshot.archive) as tar:
        assert os.fsencode(tar.getmember(os.fsdecode(b"link-\xfe")).linkname) == b"bad-\xff.txt"


def test_equal_trees_give_equal_archives_of_plain_members(tmp_path, snap):
    first, second = git_checkout(tmp_path / "first"), SourceTree(tmp_path / "second")
    files = {"b.py": "b", "a/x.sh": "#!/bin/sh", "long/" + "n" * 150 + "/ü.txt": "u"}
    first.commit(files)
    second.write(dict(reversed(files.items())))
    for tree in (first, second):
        (tree.root / "a/x.sh").chmod(0o775)
        (tree.root / "b.py").chmod(0o600)
    os.utime(second.root / "b.py", (1, 1))
    one, two = snap(first), snap(second)
    assert one.archive.read_bytes() == two.archive.read_bytes()
    assert one.size_bytes == one.archive.stat().st_size
    with tarfile.open(one.archive) as tar:
        members = tar.getmembers()
    assert [member.name for member in members] == sorted(files)
    assert {(member.mtime, member.uid, member.gid, member.uname) for member in members} == {(0, 0, 0, "")}
    assert [member.mode for member in members] == [0o755, 0o644, 0o644]


def test_a_tree_that_no_agent_takes_names_its_largest_files(folder, snap):
    folder.write({"train.py": "x", "small.bin": "s" * 100})
    for name, size in {"huge.bin": 60, "big.bin": 5}.items():
        with (folder.root / name).open("wb") as file:
            file.truncate(size * 1024**3)
    with pytest.raises(FailedPrecondition) as caught:
        snap(folder)
    assert caught.value.reason == "SOURCE_TOO_LARGE"
    assert "66,560 MiB in 4 files" in caught.value.message
    assert "huge.bin (61,440 MiB), big.bin (5,120 MiB)" in caught.value.message
    assert ".towlineignore" in caught.value.message
    folder.write({".towlineignore": "*.bin"})
    assert contents(snap(folder)).keys() == {".towlineignore", "train.py"}


def test_a_folder_with_too_many_files_is_not_searched_to_its_end(folder, snap, monkeypatch):
    monkeypatch.setattr(sizes, "MOST_FILES", 3)
    folder.write({f"{number}.txt": "x" for number in range(4)})
    with pytest.raises(FailedPrecondition, match="more than 3 files"):
        snap(folder)


def test_further_folders_get_a_place_in_the_archive_by_the_same_rules(checkout, snap, tmp_path):
    checkout.commit({"train.py": "x", ".towline/editables/lib/stale.py": "s"})
    library = git_checkout(tmp_path / "libraries")
    library.commit({"lib/lib.py": "1", ".gitignore": "*.tmp", "other/x.py": "2"})
    library.write({"lib/new.py": "n", "lib/a.tmp": "t", "lib/.env": "SECRET=1", "lib/data/b": "b"})
    library.write({"lib/.towlineignore": "data/"})
    library.write({"tmp/ignored.tmp/kept.py": "k"})  # a folder that a .gitignore around it names
    plain = SourceTree(tmp_path / "plain")
    plain.write({"setup.py": "s", ".gitignore": "build/", "build/x": "x"})
    extra = {
        ".towline/editables/ignored": library.root / "tmp/ignored.tmp",
        ".towline/editables/lib": library.root / "lib",
        ".towline/editables/plain": plain.root,
    }
    snapshot = snap(checkout, extra=extra)
    found = contents(snapshot)
    assert list(found) == sorted(found)
    assert {name: found[name] for name in found if name.startswith(".towline")} == {
        ".towline/editables/ignored/kept.py": b"k",
        ".towline/editables/lib/.towlineignore": b"data/",
        ".towline/editables/lib/lib.py": b"1",
        ".towline/editables/lib/new.py": b"n",
        ".towline/editables/plain/.gitignore": b"build/",
        ".towline/editables/plain/setup.py": b"s",
    }
    assert snapshot.paths == found.keys()
    (warning,) = snapshot.warnings
    assert warning.startswith(f"{library.root / 'lib'}: left out what looks like a secret")


@pytest.mark.parametrize("with_git", [False, True])
def test_a_data_folder_of_towline_is_never_in(folder, checkout, snap, monkeypatch, with_git):
    tree = checkout if with_git else folder
    tree.write({"train.py": "x", "state.json": "{}", ".here/state.json": "{}", ".here/postgres/PG": "18"})
    tree.write({"named/blobs/a": "a", "other/state.json": "{}"})
    monkeypatch.setenv("TOWLINE_DATA_DIR", str(tree.root / "named"))
    assert contents(snap(tree)).keys() == {"train.py", "state.json", "other/state.json"}


def test_a_large_tree_is_told_with_what_is_largest_in_it(folder, snap, monkeypatch):
    folder.write({"train.py": "x", "data/a.bin": "a", "docs/a": "", "docs/b": "", "docs/c": ""})
    assert snap(folder).warnings == ()
    with (folder.root / "data/a.bin").open("wb") as file:
        file.truncate(101 * 1024**2)
    (warning,) = snap(folder).warnings
    assert warning == (
        "the snapshot is large: 101 MiB in 5 files, most of it in data/ (101 MiB in 1 files); the largest "
        "files are data/a.bin (101 MiB); leave out what is no source with .towlineignore"
    )
    folder.write({".towlineignore": "data/"})
    monkeypatch.setattr(sizes, "MANY_FILES", 4)
    (warning,) = snap(folder).warnings
    assert "0 MiB in 5 files, most of it in docs/ (0 MiB in 3 files)" in warning
