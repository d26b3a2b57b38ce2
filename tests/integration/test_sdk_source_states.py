"""Source trees in the states that people leave them in: of their repository, and of their disk."""

import errno
import os
import shutil
import socket
import subprocess
import tarfile
import tempfile
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest

from towline.capture import archive as archive_module
from towline.capture import source
from towline.capture.entrypoint import Program
from towline.capture.roots import root_of_command, root_of_running
from towline.capture.source import Snapshot, take_snapshot
from towline.errors import FailedPrecondition
from towline_testing.checkouts import SourceTree, git_checkout


@pytest.fixture
def project(tmp_path: Path) -> SourceTree:
    """Three commits in a checkout."""
    tree = git_checkout(tmp_path / "project")
    for number in range(3):
        tree.commit(
            {"train.py": f"{number}", f"lib/{number}.py": "", "data/big.csv": "1", ".gitignore": "*.log"}
        )
    return tree


@pytest.fixture
def folder(tmp_path: Path) -> SourceTree:
    (tmp_path / "plain").mkdir()
    return SourceTree(tmp_path / "plain")


@pytest.fixture
def snap(tmp_path, monkeypatch):
    """Take a snapshot of what a command in a folder would have; archives go with the test."""
    (tmp_path / "archives").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "archives"))

    def snap(folder: Path) -> Snapshot:
        root = root_of_command(Program(folder, module="x"))
        return take_snapshot(root.folder, checkout=root.checkout)

    return snap


def contents(snapshot: Snapshot) -> dict[str, bytes]:
    with tarfile.open(snapshot.archive) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar if member.isfile()}


ALL = {"train.py", "lib/0.py", "lib/1.py", "lib/2.py", "data/big.csv", ".gitignore"}


def test_a_checkout_whose_head_is_detached_is_taken_with_its_changes(project, snap):
    project.git("checkout", "--quiet", "HEAD~1")
    project.write({"train.py": "changed", "new.py": "n"})
    snapshot = snap(project.root / "lib")
    assert contents(snapshot).keys() == ALL - {"lib/2.py"} | {"new.py"}
    assert contents(snapshot)["train.py"] == b"changed"
    assert snapshot.checkout.commit == project.git("rev-parse", "HEAD")
    assert (snapshot.checkout.branch, snapshot.checkout.dirty) == ("", True)


def test_a_shallow_clone_is_taken_whole(project, snap, tmp_path):
    project.git("clone", "--quiet", "--depth=1", project.root.as_uri(), tmp_path / "shallow")
    snapshot = snap(tmp_path / "shallow")
    assert contents(snapshot) == contents(snap(project.root))
    assert snapshot.checkout.commit == project.git("rev-parse", "HEAD")
    assert not snapshot.checkout.dirty


def test_a_worktree_is_a_checkout_of_its_own(project, snap, tmp_path):
    project.git("worktree", "add", "--quiet", "-b", "feature", tmp_path / "worktree", "HEAD~2")
    (tmp_path / "worktree/only.py").write_text("o")
    snapshot = snap(tmp_path / "worktree")
    assert contents(snapshot).keys() == {"train.py", "lib/0.py", "data/big.csv", ".gitignore", "only.py"}
    assert (snapshot.checkout.branch, snapshot.checkout.dirty) == ("feature", True)


@pytest.mark.parametrize(
    "wanted", [("--cone", "lib"), ("--cone", "--sparse-index", "lib"), ("--no-cone", "/*", "!/data/")]
)
def test_of_a_sparse_checkout_what_is_on_disk_is_taken_and_the_rest_is_told(project, snap, wanted):
    project.git("sparse-checkout", "set", *wanted)
    snapshot = snap(project.root)
    assert contents(snapshot).keys() == ALL - {"data/big.csv"}
    assert snapshot.warnings == (
        "without 1 files of the commit that are not here (git sparse-checkout list)",
    )
    # Somebody has put one of them there by hand.
    project.write({"data/big.csv": "mine"})
    snapshot = snap(project.root)
    assert contents(snapshot)["data/big.csv"] == b"mine" and snapshot.warnings == ()


def test_a_staged_change_that_was_changed_again_is_taken_as_it_is_on_disk(project, snap):
    project.write({"train.py": "staged", "staged.py": "s", "gone.py": "g"})
    project.git("add", "--all")
    project.write({"train.py": "on disk"})
    (project.root / "gone.py").unlink()
    found = contents(snap(project.root))
    assert found.keys() == ALL | {"staged.py"} and found["train.py"] == b"on disk"


def test_a_merge_that_is_stuck_is_taken_as_it_is_on_disk(project, snap):
    project.git("checkout", "--quiet", "-b", "other", "HEAD~1")
    project.commit({"train.py": "theirs"})
    with pytest.raises(subprocess.CalledProcessError):
        project.git("merge", "main")
    assert b"<<<<<<<" in contents(snap(project.root))["train.py"]


def test_a_folder_that_became_a_link_is_taken_as_a_link(project, snap):
    """Git still lists the files that lay in it."""
    (project.root / "lib").rename(project.root / "library")
    (project.root / "lib").symlink_to("library")
    snapshot = snap(project.root)
    assert contents(snapshot).keys() == {name.replace("lib/", "library/") for name in ALL}
    with tarfile.open(snapshot.archive) as tar:
        assert tar.getmember("lib").linkname == "library"


@pytest.mark.parametrize("with_git", [True, False])
def test_where_git_is_of_no_help_the_project_is_taken_as_it_is_on_disk(project, snap, monkeypatch, with_git):
    """Nobody has installed it, or it cannot read the repository."""
    before = contents(snap(project.root))
    project.write({"run.log": "l", "lib/.gitignore": "0.py\n!keep.log\n", "lib/keep.log": "k"})
    if with_git:
        (project.root / ".git/HEAD").write_text("broken")
    else:
        monkeypatch.setenv("PATH", "/nonexistent")
    snapshot = snap(project.root / "lib")
    assert snapshot.root == project.root
    expected = before.keys() - {"lib/0.py"} | {"lib/.gitignore", "lib/keep.log"}
    assert contents(snapshot).keys() == expected
    (warning,) = snapshot.warnings
    assert f"{project.root} is taken as it is on disk" in warning
    assert ("not a git repository" if with_git else "git is not installed") in warning
    assert snapshot.checkout.commit == ""


def test_a_broken_repository_around_a_persons_whole_folder_is_not_their_project(tmp_path, monkeypatch):
    project = SourceTree(tmp_path / "home/project")
    project.write({"scripts/train.py": "x"})
    (tmp_path / "home/.git").mkdir()
    (project.root / ".git").mkdir()
    script = Program(tmp_path, script=project.root / "scripts/train.py")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert root_of_running(script) == (project.root, False)
    (project.root / ".git").rmdir()
    assert root_of_running(script) == (project.root / "scripts", False)
    assert root_of_command(Program(project.root, module="x")) == (project.root, False)


def test_a_project_in_a_home_that_is_kept_in_git_is_a_folder_of_its_own(tmp_path, monkeypatch, snap):
    home = git_checkout(tmp_path / "home")
    home.write(
        {".gitignore": "*", "project/train.py": "x", "project/.gitignore": "*.log", "project/a.log": ""}
    )
    monkeypatch.setenv("HOME", str(home.root))
    assert root_of_running(Program(tmp_path, script=home.root / "project/train.py")).checkout is False
    snapshot = snap(home.root / "project")
    assert contents(snapshot).keys() == {"train.py", ".gitignore"} and snapshot.warnings == ()


def test_a_damaged_index_is_told_and_nothing_is_lost(project, snap):
    (project.root / ".git/index").write_bytes(b"DIRC damaged")
    snapshot = snap(project.root)
    assert contents(snapshot).keys() == ALL
    assert "index" in snapshot.warnings[0]


def test_a_bare_repository_is_a_folder_like_others(tmp_path, snap):
    tree = git_checkout(tmp_path / "origin")
    tree.commit({"a.py": ""})
    tree.git("clone", "--quiet", "--bare", tree.root, tmp_path / "bare.git")
    assert "HEAD" in contents(snap(tmp_path / "bare.git"))
    # One that says so itself, around files all the same.
    tree.git("config", "core.bare", "true")
    snapshot = snap(tree.root)
    assert contents(snapshot).keys() == {"a.py"}
    assert "work tree" in snapshot.warnings[0]


def test_pointers_of_git_lfs_are_told(folder, snap):
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 12345\n"
    folder.write({"model.bin": pointer, "notes.md": "version https://git-lfs.github.com/spec/v2"})
    snapshot = snap(folder.root)
    assert contents(snapshot)["model.bin"] == pointer.encode()
    (warning,) = snapshot.warnings
    assert warning.startswith("pointers of Git LFS") and warning.endswith(": model.bin")


def test_links_that_lead_in_circles_are_taken_as_they_are(folder, snap):
    folder.write({"train.py": "x", "a/x": ""})
    for name, target in {"self": "self", "a/up": "..", "one": "two", "two": "one", "none": "absent"}.items():
        (folder.root / name).symlink_to(target)
    snapshot = snap(folder.root)
    with tarfile.open(snapshot.archive) as tar:
        assert {member.name for member in tar if member.issym()} == {"self", "a/up", "one", "two", "none"}
    assert snapshot.warnings == ()


def test_what_is_neither_file_nor_link_is_left_out(folder, snap, monkeypatch):
    folder.write({"train.py": "x"})
    os.mkfifo(folder.root / "pipe")
    os.mkfifo(folder.root / ".towlineignore")
    monkeypatch.chdir(folder.root)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
        if os.geteuid() == 0:
            os.mknod(folder.root / "device", 0o600 | 0o060000, os.makedev(7, 0))
        snapshot = snap(folder.root)
    assert contents(snapshot).keys() == {"train.py"}
    assert "neither file nor link" in snapshot.left_out["pipe"]


@contextmanager
def nobody():
    """Be somebody whom permissions bind."""
    if os.geteuid() == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(os.getuid())


@pytest.mark.parametrize("checkout", [True, False])
def test_what_cannot_be_read_is_left_out_and_told(monkeypatch, checkout):
    top = Path(tempfile.mkdtemp(dir="/tmp"))
    try:
        tree = git_checkout(top / "tree")
        tree.write({"train.py": "x", "private.txt": "p", "locked/a.py": "a", "half/.towlineignore": "*.bin"})
        (top / "archives").mkdir()
        for path, mode in {"": 0o777, "archives": 0o777, "tree": 0o755}.items():
            (top / path).chmod(mode)
        for path in ("private.txt", "locked", "half/.towlineignore"):
            (tree.root / path).chmod(0)
        monkeypatch.setattr("tempfile.tempdir", str(top / "archives"))
        monkeypatch.setenv("HOME", "/nonexistent")
        with nobody():
            snapshot = take_snapshot(tree.root, checkout=checkout)
            assert contents(snapshot) == {"train.py": b"x"}
        assert snapshot.paths == {"train.py"}
        assert set(snapshot.warnings) == {
            "left out folders that cannot be read: locked",
            "left out files that cannot be read: half/.towlineignore, private.txt",
        }
        assert snapshot.left_out["private.txt"] == snapshot.left_out["locked"] == "it cannot be read"
    finally:
        (top / "tree/locked").chmod(0o700)
        shutil.rmtree(top)


def test_a_file_of_5_gb_is_taken_without_a_cap_and_its_holes_stay_holes(folder, snap):
    folder.write({"train.py": "x"})
    with (folder.root / "weights.bin").open("wb") as file:
        file.seek(3 * 10**9)
        file.write(b"in the middle")
        file.truncate(5 * 10**9)
    snapshot = snap(folder.root)
    assert snapshot.size_bytes > 5 * 10**9
    assert snapshot.archive.stat().st_blocks * 512 < 10**6
    with tarfile.open(snapshot.archive) as tar:
        member = tar.getmember("weights.bin")
        assert member.size == 5 * 10**9
        content = tar.extractfile(member)
        content.seek(3 * 10**9 - 1)
        assert content.read(15) == b"\0in the middle\0"
    (warning,) = snapshot.warnings
    assert "4,768 MiB in 2 files" in warning and "weights.bin (4,768 MiB" in warning
    assert ".towlineignore" in warning


def test_a_tree_that_the_disk_has_no_room_for_is_refused_before_it_is_read(folder, snap, monkeypatch):
    folder.write({"data.bin": b"d" * 3_000_000})
    usage = shutil.disk_usage(folder.root)
    monkeypatch.setattr(source.shutil, "disk_usage", lambda _: usage._replace(free=19 * 10**6))
    with pytest.raises(FailedPrecondition, match=r"takes 3 MiB in .* room for 18 MiB; set TMPDIR") as caught:
        snap(folder.root)
    assert caught.value.reason == "NO_SPACE"
    assert not list(Path(tempfile.gettempdir()).iterdir())


def test_names_are_taken_as_bytes_whatever_the_locale(folder, tmp_path):
    folder.write({"größe.txt": "g", os.fsdecode(b"\xe9t\xe9.txt"): "e"})
    take = "import sys; from towline.capture.source import take_snapshot; from pathlib import Path; "
    take += "print(sys.getfilesystemencoding(), take_snapshot(Path('.'), checkout=False).archive)"
    done = folder.python(
        "-c", take, LC_ALL="C", PYTHONCOERCECLOCALE="0", PYTHONUTF8="0", TMPDIR=str(tmp_path)
    )
    encoding, _, archive = done.stdout.strip().partition(" ")
    assert encoding != "utf-8", done
    with tarfile.open(archive) as tar:
        assert {os.fsencode(name) for name in tar.getnames()} == {"größe.txt".encode(), b"\xe9t\xe9.txt"}


def test_a_disk_that_becomes_full_meanwhile_is_told(folder, snap, monkeypatch):
    folder.write({"data.bin": b"d"})

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(archive_module.Archive, "end", full)
    with pytest.raises(FailedPrecondition, match="set TMPDIR to a folder with more"):
        snap(folder.root)
    assert not list(Path(tempfile.gettempdir()).iterdir())


class Reader:
    """Does something to a file each time a piece of it was read."""

    def __init__(self, monkeypatch, act) -> None:
        self._read, self._act = archive_module._read, act
        self.reads = 0
        monkeypatch.setattr(archive_module, "_read", self.read)

    def read(self, source, at, size, place):
        data = self._read(source, at, size, place)
        if place.name == "growing":
            self.reads += 1
            self._act(self.reads, place)
        return data


def test_a_file_that_is_written_to_meanwhile_is_read_again(folder, snap, monkeypatch):
    folder.write({"a.py": "a", "growing": "1" * 2000, "z.py": "z"})
    Reader(monkeypatch, lambda count, place: place.write_text("2" * 3000) if count == 1 else None)
    snapshot = snap(folder.root)
    assert contents(snapshot) == {"a.py": b"a", "growing": b"2" * 3000, "z.py": b"z"}
    assert snapshot.warnings == ()


def test_a_file_that_never_holds_still_is_taken_in_one_piece_with_a_warning(folder, snap, monkeypatch):
    folder.write({"a.py": "a", "growing": "1" * 2000, "z.py": "z"})

    def append(_, place: Path) -> None:
        with place.open("a") as file:
            file.write("x" * 1000)

    Reader(monkeypatch, append)
    snapshot = snap(folder.root)
    found = contents(snapshot)
    assert found.keys() == {"a.py", "growing", "z.py"} and len(found["growing"]) == 4000
    assert snapshot.warnings == ("written to while the snapshot was taken: growing",)


def test_a_file_that_shrinks_each_time_it_is_read_is_left_out(folder, snap, monkeypatch):
    folder.write({"a.py": "a", "growing": "1" * 5000, "z.py": "z"})
    Reader(monkeypatch, lambda _, place: os.truncate(place, place.stat().st_size - 600))
    snapshot = snap(folder.root)
    assert contents(snapshot) == {"a.py": b"a", "z.py": b"z"}
    assert snapshot.warnings == ("left out files that do not hold still: growing",)
    assert snapshot.paths == {"a.py", "z.py"}


def test_a_pipe_that_comes_in_a_files_place_does_not_hang(folder, snap, monkeypatch):
    folder.write({"a.py": "a", "b.py": "b", "c.py": "c"})
    listed = source.list_tree

    def swap(*arguments, **options):
        tree = listed(*arguments, **options)
        (folder.root / "b.py").unlink()
        os.mkfifo(folder.root / "b.py")
        (folder.root / "c.py").unlink()
        return tree

    monkeypatch.setattr(source, "list_tree", swap)
    taken: list[Snapshot] = []
    thread = threading.Thread(target=lambda: taken.append(snap(folder.root)), daemon=True)
    thread.start()
    thread.join(20)
    (snapshot,) = taken
    assert contents(snapshot) == {"a.py": b"a"}
    assert snapshot.warnings == ("left out files that went away meanwhile: b.py, c.py",)
