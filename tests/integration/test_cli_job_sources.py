"""Git repositories elsewhere, and jobs made of their commits and patches."""

import os
import tarfile
import tempfile
from pathlib import Path

import pytest

from towline.capture import remotes
from towline.errors import InvalidArgument, NotFound, Unavailable
from towline.rpc.channel import open_channel
from towline.v1 import jobs_pb2
from towline_agent.core import keys
from towline_agent.registry import Registry as RegistryClient
from towline_agent.sources import Sources
from towline_testing.checkouts import SourceTree, git_checkout
from towline_testing.command import towline
from towline_testing.container_registry import container_registry
from towline_testing.stack import Stack


@pytest.mark.parametrize(
    ("remote", "problem"),
    [
        ("https://bob:s3cret@host.invalid/x", "user names and passwords in URLs are refused"),
        ("https://s3cret@host.invalid/x", "user names and passwords in URLs are refused"),
        ("ssh://git:s3cret@host.invalid/x", "user names and passwords in URLs are refused"),
        ("bob:s3cret@host.invalid/x", "https://, ssh://, http://, git:// or user@host:path"),
        ("https://host.invalid:s3cret/x", "https://, ssh://, http://, git:// or user@host:path"),
        ("/home/ada/s3cret", "https://, ssh://, http://, git:// or user@host:path"),
        ("file:///s3cret", "https://, ssh://, http://, git:// or user@host:path"),
        ("ext::s3cret", "https://, ssh://, http://, git:// or user@host:path"),
        ("--upload-pack=s3cret", "https://, ssh://, http://, git:// or user@host:path"),
    ],
)
@pytest.mark.parametrize("ref", ["main", "0" * 40])
def test_a_remote_that_agents_cannot_fetch_never_reaches_git(monkeypatch, remote, problem, ref):
    monkeypatch.setenv("PATH", "/nonexistent")  # git would be missed
    with pytest.raises(InvalidArgument, match=problem) as caught:
        remotes.resolve(remote, ref)
    assert "s3cret" not in caught.value.message


@pytest.fixture
def hosted(tmp_path, monkeypatch) -> SourceTree:
    """A repository at https://code.example/digits, as far as git knows; none is anywhere else there."""
    (tmp_path / "hosted").mkdir()
    tree = git_checkout(tmp_path / "hosted/digits")
    monkeypatch.setenv("GIT_CONFIG_COUNT", "2")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", f"url.{tmp_path}/hosted/.insteadOf")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "https://code.example/")
    monkeypatch.setenv("GIT_CONFIG_KEY_1", "url.http://bob:s3cret@127.0.0.1:1/.insteadOf")
    monkeypatch.setenv("GIT_CONFIG_VALUE_1", "https://down.example/")
    return tree


def test_refs_become_commits_and_what_is_not_there_is_told_apart_from_who_is_not(hosted):
    commit = hosted.commit({"train.py": "x"})
    assert remotes.resolve("https://code.example/digits", "main") == commit
    assert remotes.resolve("git@host.invalid:ada/digits.git", commit) == commit
    assert remotes.resolve("ssh://git@host.invalid/digits.git", commit) == commit
    with pytest.raises(InvalidArgument, match="has no branch, tag or full commit 'none'"):
        remotes.resolve("https://code.example/digits", "none")
    with pytest.raises(NotFound, match=r"there is no repository https://code\.example/letters"):
        remotes.resolve("https://code.example/letters", "main")
    with pytest.raises(Unavailable, match=r"git ls-remote https://down\.example/x") as caught:
        remotes.resolve("https://down.example/x", "main")
    assert "s3cret" not in caught.value.message


@pytest.fixture(scope="module")
def stack(embedded_postgres, tmp_path_factory):
    """A registry."""
    database = f"sources_{os.urandom(4).hex()}"
    embedded_postgres.psql(f"CREATE DATABASE {database}")
    stack = Stack(tmp_path_factory.mktemp("stack"), embedded_postgres.url(database))
    try:
        stack.start("registry")
        yield stack
    finally:
        stack.stop_all()
        embedded_postgres.psql(f"DROP DATABASE {database} WITH (FORCE)")


@pytest.fixture
def create(stack, tmp_path):
    """Run `towline job create …`; gives the version's content, or the words of the refusal."""

    def create(*arguments: str | Path) -> jobs_pb2.JobSpec | str:
        done = towline("job", "create", *arguments, env=stack.client_environment, cwd=tmp_path)
        if done.returncode:
            assert done.returncode == 2, done.stderr
            return done.stderr
        create.told = done.stderr
        with stack.client() as client:
            return client.jobs.get(done.stdout.split()[1]).spec

    return create


REPOSITORY = ("git", "https://code.example/digits", "--name", "digits")
COMMAND = ("--", "python", "train.py")


def test_a_ref_becomes_a_commit_when_the_job_is_made(create, hosted):
    first = hosted.commit({"train.py": "x"})
    hosted.git("tag", "--annotate", "-m", "one", "v1")
    second = hosted.commit({"train.py": "y"})
    made = create(*REPOSITORY, "--commit", "v1", "--subfolder", "sub", *COMMAND)
    assert made.git == jobs_pb2.GitSource(remote="https://code.example/digits", commit=first, subfolder="sub")
    assert create(*REPOSITORY, *COMMAND).git.commit == second
    assert "no branch, tag or full commit 'none'" in create(*REPOSITORY, "--commit", "none", *COMMAND)


async def test_a_patch_goes_with_the_job_to_whoever_runs_it(create, stack, hosted, tmp_path):
    commit = hosted.commit({"train.py": "old\n", "data.bin": b"\0"})
    hosted.write({"train.py": "new\n", "data.bin": bytes(range(256)), "more.py": "m\n"})
    hosted.git("add", "--all")
    (tmp_path / "changes.patch").write_bytes(hosted.diff())
    made = create(*REPOSITORY, "--patch", "changes.patch", *COMMAND)
    assert made.git.commit == commit and made.git.patch_digest.startswith("sha256:")
    async with open_channel(stack.address("registry")) as channel:
        sources = Sources(RegistryClient(channel, "the registry"), tmp_path, ("file",))
        made.git.remote = hosted.root.as_uri()
        async with sources.archive(made, lambda _: None) as archive:
            with tarfile.open(archive) as tar:
                found = {member.name: tar.extractfile(member).read() for member in tar if member.isfile()}
    assert found == {
        "workspace/train.py": b"new\n",
        "workspace/data.bin": bytes(range(256)),
        "workspace/more.py": b"m\n",
    }
    with_another = create(*REPOSITORY, *COMMAND)
    assert keys.source_id(with_another) != keys.source_id(made)


@pytest.mark.parametrize(
    ("patch", "words"),
    [
        (None, "cannot be read: No such file"),
        ("", "it is empty"),
        ("hello\n", "git does not read it as a patch"),
        ("--- a/train.py\n+++ b/train.py\n@@ -1 +1 @@\n-other\n+new\n", "it does not fit commit"),
        ("--- a/../x\n+++ b/../x\n@@ -1 +1 @@\n-other\n+new\n", "it does not fit commit"),
    ],
)
def test_a_patch_that_is_none_or_does_not_fit_is_refused(create, hosted, tmp_path, patch, words):
    hosted.commit({"train.py": "old\n"})
    if patch is not None:
        (tmp_path / "changes.patch").write_text(patch)
    refusal = create(*REPOSITORY, "--patch", "changes.patch", *COMMAND)
    assert "--patch changes.patch" in refusal and words in " ".join(refusal.split())


def test_only_what_a_patch_touches_is_fetched_to_try_it(hosted, tmp_path, monkeypatch):
    hosted.git("config", "uploadpack.allowFilter", "true")
    hosted.git("config", "uploadpack.allowAnySHA1InWant", "true")
    commit = hosted.commit({"train.py": "old\n", "large.bin": os.urandom(3_000_000)})
    patch = tmp_path / "changes.patch"
    patch.write_text("--- a/train.py\n+++ b/train.py\n@@ -1 +1 @@\n-old\n+new\n")
    sizes = []
    cleanup = tempfile.TemporaryDirectory.cleanup

    def measure(folder: tempfile.TemporaryDirectory) -> None:
        sizes.append(sum(file.stat().st_size for file in Path(folder.name).rglob("*") if file.is_file()))
        cleanup(folder)

    monkeypatch.setattr(tempfile.TemporaryDirectory, "cleanup", measure)
    remotes.check_fit(patch, hosted.root.as_uri(), commit)
    assert 0 < sizes[0] < 1_000_000
    patch.write_text("--- a/train.py\n+++ b/train.py\n@@ -1 +1 @@\n-older\n+new\n")
    with pytest.raises(InvalidArgument, match="does not fit"):
        remotes.check_fit(patch, hosted.root.as_uri(), commit)
    remotes.check_fit(patch, "https://down.example/x", commit)  # agents may reach it
    with pytest.raises(InvalidArgument, match=r"has no commit 1{40}; push it there first"):
        remotes.check_fit(patch, hosted.root.as_uri(), "1" * 40)


def test_an_image_is_kept_by_digest_unless_that_is_not_wanted_or_cannot_be(create, tmp_path):
    with container_registry(tmp_path / "registry") as registry:
        digest = registry.push("team/digits", "v1", b"x")
        tag = f"{registry.host}/team/digits:v1"
        by_digest = f"{registry.host}/team/digits@{digest}"
        made = create("image", tag, "--name", "image")
        assert made.image == jobs_pb2.ImageSource(reference=by_digest, requested=tag)
        made = create("image", tag, "--name", "tagged", "--no-resolve")
        assert made.image == jobs_pb2.ImageSource(reference=tag)
        absent = f"{registry.host}/team/digits:v2"
        made = create("image", absent, "--name", "tagged")
        assert made.image == jobs_pb2.ImageSource(reference=absent)
        assert "is kept as it is" in create.told and "does not have it" in create.told
    assert "no image reference" in create("image", "Not/An Image", "--name", "image", "--no-resolve")
