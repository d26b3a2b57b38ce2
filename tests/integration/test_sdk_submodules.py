"""Checkouts inside checkouts."""

import os
import tarfile
from pathlib import Path

import pytest

from towline.capture.source import Snapshot, take_snapshot
from towline.errors import FailedPrecondition
from towline_testing.checkouts import SourceTree, git_checkout


@pytest.fixture
def nested(tmp_path: Path) -> SourceTree:
    """A checkout with a submodule that has one, both checked out."""
    inner = git_checkout(tmp_path / "origins/inner")
    inner.commit({"inner.py": "1", ".gitignore": "*.log"})
    library = git_checkout(tmp_path / "origins/library")
    library.commit({"lib.py": "1"})
    library.git("submodule", "--quiet", "add", "../inner", "deep/inner")
    library.commit({})
    tree = git_checkout(tmp_path / "project")
    tree.commit({"train.py": "x"})
    tree.git("submodule", "--quiet", "add", library.root, "vendor/library")
    tree.git("submodule", "--quiet", "update", "--init", "--recursive")
    tree.commit({})
    return tree


@pytest.fixture
def snap(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return lambda tree: take_snapshot(tree.root, checkout=True)


def files(snapshot: Snapshot) -> set[str]:
    with tarfile.open(snapshot.archive) as tar:
        return {member.name for member in tar if member.name != ".gitmodules"}


NESTED = {
    "train.py",
    "vendor/library/.gitmodules",
    "vendor/library/lib.py",
    "vendor/library/deep/inner/inner.py",
    "vendor/library/deep/inner/.gitignore",
}


def test_submodules_of_submodules_are_taken_with_their_changes(nested, snap):
    nested.write(
        {
            "vendor/library/deep/inner/new.py": "n",
            "vendor/library/deep/inner/a.log": "l",
            "vendor/library/deep/inner/.env": "SECRET=1",
        }
    )
    snapshot = snap(nested)
    assert files(snapshot) == NESTED | {"vendor/library/deep/inner/new.py"}
    (warning,) = snapshot.warnings
    assert warning.endswith(": vendor/library/deep/inner/.env")
    assert snapshot.checkout.dirty


def test_submodules_that_are_not_checked_out_are_told(nested, snap, tmp_path):
    nested.git("clone", "--quiet", nested.root, tmp_path / "clone")
    clone = SourceTree(tmp_path / "clone")
    snapshot = snap(clone)
    assert files(snapshot) == {"train.py"}
    (warning,) = snapshot.warnings
    assert "git submodule update --init" in warning and warning.endswith(": vendor/library")
    clone.git("submodule", "--quiet", "update", "--init")
    snapshot = snap(clone)
    assert files(snapshot) == {"train.py", "vendor/library/.gitmodules", "vendor/library/lib.py"}
    assert snapshot.warnings[0].endswith(": vendor/library/deep/inner")


def test_a_submodule_that_git_cannot_read_is_taken_as_it_is_on_disk(nested, snap):
    inner = nested.root / "vendor/library/deep/inner"
    nested.write({"vendor/library/deep/inner/a.log": "l"})
    (inner / ".git").write_text("gitdir: /nonexistent\n")
    snapshot = snap(nested)
    assert files(snapshot) == NESTED
    (warning,) = snapshot.warnings
    assert f"{inner} is taken as it is on disk" in warning and "/nonexistent" in warning


def test_a_submodule_that_is_left_out_is_not_looked_into(nested, snap):
    (nested.root / "vendor/library/.git").write_text("gitdir: /nonexistent\n")
    nested.write({".towlineignore": "/vendor/library"})
    snapshot = snap(nested)
    assert files(snapshot) == {"train.py", ".towlineignore"}
    assert snapshot.warnings == ()


def refused(snap, tree: SourceTree) -> FailedPrecondition:
    with pytest.raises(FailedPrecondition) as caught:
        snap(tree)
    assert caught.value.reason == "CYCLIC_SUBMODULE"
    assert "contains itself" in caught.value.message
    assert ".towlineignore" in caught.value.message
    return caught.value


@pytest.mark.parametrize("target", ["..", ".", "../../project"])
def test_a_submodule_whose_folder_links_to_what_it_lies_in_is_refused(nested, snap, target):
    library = nested.root / "vendor/library"
    library.rename(nested.root.parent / "moved")
    library.symlink_to(target)
    if target == ".":  # a link in vendor/ to vendor/ itself
        assert library.resolve() == nested.root / "vendor"
    error = refused(snap, nested)
    assert error.metadata["path"] == "vendor/library"
    nested.write({".towlineignore": "/vendor/library\n"})
    assert files(snap(nested)) == {"train.py", ".towlineignore"}


def test_a_link_inside_of_a_submodule_is_a_link_like_others(nested, snap):
    (nested.root / "vendor/library/self").symlink_to(".")
    assert files(snap(nested)) == NESTED | {"vendor/library/self"}


def test_a_submodule_that_is_the_repository_around_it_is_refused(nested, snap):
    (nested.root / "vendor/library/.git").write_text(f"gitdir: {nested.root / '.git'}\n")
    assert refused(snap, nested).metadata["path"] == "vendor/library"


@pytest.mark.parametrize("url", ["./", "absolute"])
def test_a_gitmodules_that_points_at_itself_is_refused_where_that_goes_on(tmp_path, snap, url):
    tree = git_checkout(tmp_path / "self")
    tree.commit({"train.py": "x"})
    tree.git("submodule", "--quiet", "add", url if url != "absolute" else tree.root, "me")
    # So far it ends: what is checked out there has no submodule, as with a branch for a project's pages.
    assert files(snap(tree)) == {"train.py", "me/train.py"}
    second = tree.commit({})
    me = SourceTree(tree.root / "me")
    me.git("fetch", "--quiet", "origin")
    me.git("checkout", "--quiet", second)
    error = refused(snap, tree)
    assert error.metadata["path"] == "me"
    tree.write({".towlineignore": "me/\n"})
    assert files(snap(tree)) == {"train.py", ".towlineignore"}


def test_two_repositories_that_are_submodules_of_each_other_are_refused(tmp_path, snap):
    one, two = git_checkout(tmp_path / "one"), git_checkout(tmp_path / "two")
    one.commit({"one.py": "1"})
    two.commit({"two.py": "2"})
    two.git("submodule", "--quiet", "add", one.root, "one")
    two.commit({})
    one.git("submodule", "--quiet", "add", two.root, "two")
    one.git("submodule", "--quiet", "update", "--init", "--recursive")
    one.commit({})
    assert files(snap(one)) == {"one.py", "two/two.py", "two/.gitmodules", "two/one/one.py"}
    deepest = SourceTree(one.root / "two/one")
    deepest.git("fetch", "--quiet", "origin")
    deepest.git("checkout", "--quiet", "origin/main")
    assert refused(snap, one).metadata["path"] == "two/one"


def test_names_of_submodules_are_taken_byte_for_byte(nested, snap):
    name = os.fsdecode(b"vend\xff")
    nested.git("mv", "vendor", name)
    assert files(snap(nested)) == {path.replace("vendor", name) for path in NESTED}
