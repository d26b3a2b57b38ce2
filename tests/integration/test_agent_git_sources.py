"""Git sources as an agent fetches them: from real servers, with patches and submodules."""

import asyncio
import os
import tarfile
from pathlib import Path

import pytest

from towline.errors import FailedPrecondition, InvalidArgument, NotFound, TowlineError
from towline.v1 import jobs_pb2
from towline_agent.checkouts import Checkouts, pack
from towline_testing.checkouts import SourceTree, git_checkout
from towline_testing.git_servers import git_daemon, private_git_over_http


@pytest.fixture
def origin(tmp_path: Path) -> SourceTree:
    """A repository with two commits."""
    tree = git_checkout(tmp_path / "served/project")
    tree.commit({"train.py": "old", "sub/a.txt": "a\n", "data.bin": b"\0\1"})
    tree.commit({"train.py": "print('new')\n", "run.sh": "#!/bin/sh\n"})
    return tree


class Agent:
    """Checks out, and tells what it has got."""

    def __init__(self, work: Path, *protocols: str) -> None:
        self._work = work
        self._checkouts = Checkouts(protocols or ("file",))
        self.told: list[str] = []

    async def __call__(
        self, remote: str | Path, commit: str, patch: bytes | None = None, subfolder: str = ""
    ) -> dict[str, bytes | str]:
        """Give the source tree: content by path, or the target of a link."""
        folder = self._work / f"checkout-{len(list(self._work.iterdir()))}"
        folder.mkdir()
        url = remote.as_uri() if isinstance(remote, Path) else remote
        source = jobs_pb2.GitSource(remote=url, commit=commit, subfolder=subfolder)
        file = self._work / f"{folder.name}.patch"
        if patch is not None:
            file.write_bytes(patch)
        tree = await self._checkouts.make(
            source, folder, file if patch is not None else None, self.told.append
        )
        archive = self._work / f"{folder.name}.tar"
        await asyncio.to_thread(pack, tree, archive)
        self.folder = folder
        with tarfile.open(archive) as tar:
            self.modes = {member.name: member.mode & 0o777 for member in tar}
            return {
                member.name: member.linkname if member.issym() else tar.extractfile(member).read()
                for member in tar
            }


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Agent:
    (tmp_path / "work").mkdir()
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return Agent(tmp_path / "work")


def served_only_by_branch(tree: SourceTree) -> None:
    """Have a repository refuse commits by id, as servers with the first protocol do."""
    (Path(os.environ["HOME"]) / ".gitconfig").write_text("[protocol]\n\tversion = 0\n")
    tree.git("config", "uploadpack.allowAnySHA1InWant", "false")


async def test_one_commit_is_fetched_and_nothing_else(origin, agent, tmp_path):
    older = origin.git("rev-parse", "HEAD~1")
    agent._checkouts = Checkouts(("git",))
    with git_daemon(tmp_path / "served") as url:
        assert await agent(f"{url}/project", older) == {
            "train.py": b"old",
            "sub/a.txt": b"a\n",
            "data.bin": b"\0\1",
        }
    fetched = SourceTree(agent.folder).git("rev-list", "--all", "HEAD")
    assert fetched == older
    assert agent.told == [f"fetching commit {older[:12]} of {url}/project"]


async def test_a_server_that_refuses_a_commit_by_its_id_is_asked_for_everything(origin, agent, tmp_path):
    older = origin.git("rev-parse", "HEAD~1")
    served_only_by_branch(origin)
    assert (await agent(origin.root, older))["train.py"] == b"old"
    assert len(SourceTree(agent.folder).git("rev-list", "--all").split()) == 2


async def test_a_tree_comes_as_it_was_committed(origin, agent):
    """Whatever the attributes of the repository say of archives, and this node's configuration of lines."""
    (Path(os.environ["HOME"]) / ".gitconfig").write_text("[core]\n\tautocrlf = true\n\tsymlinks = false\n")
    (origin.root / "run.sh").chmod(0o755)
    (origin.root / "link").symlink_to("sub/a.txt")
    (origin.root / "sub/up").symlink_to("..")
    name = os.fsdecode(b"bad-\xff.txt")
    attributes = "sub export-ignore\nversion.txt export-subst\n"
    commit = origin.commit({name: "b", ".gitattributes": attributes, "version.txt": "$Format:%H$"})
    found = await agent(origin.root, commit)
    assert found == {
        "train.py": b"print('new')\n",
        "run.sh": b"#!/bin/sh\n",
        "sub/a.txt": b"a\n",
        "data.bin": b"\0\1",
        "link": "sub/a.txt",
        "sub/up": "..",
        name: b"b",
        ".gitattributes": attributes.encode(),
        "version.txt": b"$Format:%H$",
    }
    assert agent.modes["run.sh"] & 0o100 and not agent.modes["train.py"] & 0o111


async def test_a_patch_goes_over_the_commit(origin, agent):
    commit = origin.git("rev-parse", "HEAD")
    origin.write({"train.py": "print('patched')\n", "new/file.py": "n", "data.bin": bytes(range(256))})
    (origin.root / "sub/a.txt").unlink()
    (origin.root / "run.sh").chmod(0o755)
    origin.git("add", "--all")
    patch = origin.diff()
    found = await agent(origin.root, commit, patch)
    assert found == {
        "train.py": b"print('patched')\n",
        "new/file.py": b"n",
        "data.bin": bytes(range(256)),
        "run.sh": b"#!/bin/sh\n",
    }
    assert agent.modes["run.sh"] & 0o100


@pytest.mark.parametrize(
    ("patch", "words"),
    [
        ("--- a/train.py\n+++ b/train.py\n@@ -1 +1 @@\n-other\n+new\n", "patch does not apply"),
        ("--- a/absent.py\n+++ b/absent.py\n@@ -1 +1 @@\n-other\n+new\n", "absent.py"),
        ("this is no patch\n", "No valid patches"),
        ("--- /dev/null\n+++ b/../../escaped\n@@ -0,0 +1 @@\n+x\n", "invalid path"),
        ("--- /dev/null\n+++ b/.git/hooks/post-checkout\n@@ -0,0 +1 @@\n+x\n", "invalid path"),
        ("--- /dev/null\n+++ b/out/escaped\n@@ -0,0 +1 @@\n+x\n", "beyond a symbolic link"),
    ],
)
async def test_a_patch_that_does_not_fit_is_told_in_gits_words(origin, agent, tmp_path, patch, words):
    (origin.root / "out").symlink_to(tmp_path)
    commit = origin.commit({})
    with pytest.raises(InvalidArgument, match=words) as caught:
        await agent(origin.root, commit, patch.encode())
    assert caught.value.reason == "PATCH_FAILED"
    assert f"git diff --binary {commit[:12]}" in caught.value.message
    assert not list(tmp_path.rglob("escaped"))


async def test_a_sub_folder_becomes_the_root(origin, agent):
    commit = origin.git("rev-parse", "HEAD")
    assert await agent(origin.root, commit, subfolder="sub/") == {"a.txt": b"a\n"}
    (origin.root / "link").symlink_to("/etc")
    commit = origin.commit({})
    for subfolder in ("absent", "train.py", "link", ".git", "sub/../../.."):
        with pytest.raises(NotFound, match=f"has no folder {subfolder}") as caught:
            await agent(origin.root, commit, subfolder=subfolder)
        assert caught.value.reason == "GIT_SUBFOLDER_NOT_FOUND"


@pytest.fixture
def nested(origin: SourceTree, tmp_path: Path) -> SourceTree:
    """The repository, with a submodule that has one; both at commits that no branch points at."""
    inner = git_checkout(tmp_path / "served/inner")
    inner.commit({"inner.py": "1"})
    library = git_checkout(tmp_path / "served/library")
    library.commit({"lib.py": "1"})
    library.git("submodule", "--quiet", "add", "../inner", "deep/inner")
    library.commit({})
    origin.git("submodule", "--quiet", "add", "../library", "vendor/library")
    origin.git("submodule", "--quiet", "update", "--init", "--recursive")
    origin.commit({})
    inner.commit({"inner.py": "2"})
    library.commit({"lib.py": "2"})
    return origin


@pytest.mark.parametrize("by_id", [True, False])
async def test_submodules_of_submodules_come_at_their_commits(nested, agent, tmp_path, by_id):
    commit = nested.git("rev-parse", "HEAD")
    if not by_id:
        served_only_by_branch(nested)
    found = await agent(nested.root, commit)
    assert {path: found[path] for path in found if path.startswith("vendor") and ".git" not in path} == {
        "vendor/library/lib.py": b"1",
        "vendor/library/deep/inner/inner.py": b"1",
    }
    assert not [path for path in found if path.endswith("/.git")]
    assert "fetching the submodule vendor/library" in agent.told
    inside = await agent(nested.root, commit, subfolder="vendor/library/deep/inner")
    assert inside == {"inner.py": b"1"}


async def test_a_patch_may_move_a_submodule(nested, agent):
    commit = nested.git("rev-parse", "HEAD")
    library = SourceTree(nested.root / "vendor/library")
    library.git("pull", "--quiet", "origin", "main")
    library.write({"lib.py": "dirty"})
    patch = nested.diff()
    assert b"-dirty" in patch
    assert (await agent(nested.root, commit, patch))["vendor/library/lib.py"] == b"2"


async def test_of_a_sub_folder_only_its_submodules_are_fetched(nested, agent, tmp_path):
    (tmp_path / "served/library").rename(tmp_path / "gone")
    commit = nested.git("rev-parse", "HEAD")
    assert await agent(nested.root, commit, subfolder="sub") == {"a.txt": b"a\n"}
    for subfolder in ("", "vendor", "vendor/library/deep"):
        with pytest.raises(NotFound, match="cannot get the submodule vendor/library") as caught:
            await agent(nested.root, commit, subfolder=subfolder)
        assert caught.value.reason == "GIT_FETCH_FAILED"


async def test_a_submodule_without_an_origin_is_an_empty_folder(origin, agent):
    """A repository that somebody added by mistake; git clone gives up there."""
    git_checkout(origin.root / "inner").commit({"x": "x"})
    commit = origin.commit({})
    assert "inner/x" not in await agent(origin.root, commit)


async def test_a_list_of_submodules_that_git_cannot_read_is_told(nested, agent):
    commit = nested.commit({".gitmodules": "[submodule\n"})
    with pytest.raises(
        NotFound, match=r"cannot list the submodules: .*bad config line 1 in file \.gitmodules"
    ):
        await agent(nested.root, commit)


async def test_a_cyclic_submodule_is_refused(origin, agent):
    origin.git("submodule", "--quiet", "add", "./", "me")
    commit = origin.commit({})
    assert (await agent(origin.root, commit))["me/train.py"] == b"print('new')\n"
    me = SourceTree(origin.root / "me")
    for _ in range(2):
        me.git("fetch", "--quiet", "origin")
        me.git("checkout", "--quiet", "origin/main")
        commit = origin.commit({})
    with pytest.raises(InvalidArgument, match=r"the submodule me of .* contains itself") as caught:
        await agent(origin.root, commit)
    assert caught.value.reason == "CYCLIC_SUBMODULE"


async def test_what_a_repository_wants_to_run_is_not_run(origin, agent, tmp_path):
    marker = tmp_path / "ran"
    template = tmp_path / "home/template/hooks"
    template.mkdir(parents=True)
    hook = template / "post-checkout"
    hook.write_text(f"#!/bin/sh\ntouch {marker}\n")
    hook.chmod(0o755)
    (tmp_path / "home/.gitconfig").write_text(f"[init]\n\ttemplateDir = {template.parent}\n")
    library = git_checkout(tmp_path / "served/library")
    library.commit({"lib.py": "1"})
    origin.git("submodule", "--quiet", "add", library.root, "library")
    origin.git("config", "-f", ".gitmodules", "submodule.library.update", f"!touch {marker}")
    commit = origin.commit({".gitattributes": "* filter=evil\n"})
    with pytest.raises(NotFound, match="update"):
        await agent(origin.root, commit)
    assert not marker.exists()


@pytest.mark.parametrize(
    "remote", ["ext::sh -c 'touch RAN'", "--upload-pack=touch RAN", "-oProxyCommand=touch RAN"]
)
async def test_a_remote_that_is_a_command_is_refused(agent, monkeypatch, tmp_path, remote):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TowlineError):
        await agent(remote, "1" * 40)
    with pytest.raises(InvalidArgument):
        await agent("file:///x", "--upload-pack=touch RAN")
    assert not list(tmp_path.rglob("RAN"))


async def test_a_protocol_that_this_node_does_not_speak_is_refused_in_submodules_too(nested, agent, tmp_path):
    agent._checkouts = Checkouts(("git",))
    nested.git(
        "config", "-f", ".gitmodules", "submodule.vendor/library.url", (tmp_path / "served/library").as_uri()
    )
    commit = nested.commit({})
    with git_daemon(tmp_path / "served") as url, pytest.raises(NotFound, match="'file' not allowed"):
        await agent(f"{url}/project", commit)


async def test_credentials_are_the_nodes_and_stay_out_of_what_is_told(origin, agent, tmp_path):
    bare = tmp_path / "private/project.git"
    origin.git("clone", "--quiet", "--bare", origin.root, bare)
    SourceTree(bare).git("update-server-info")
    commit = origin.git("rev-parse", "HEAD")
    agent._checkouts = Checkouts(("http",))
    with private_git_over_http(tmp_path / "private", "ada:s3cret") as (url, seen):
        with pytest.raises(NotFound, match="could not read Username"):
            await agent(f"{url}/project.git", commit)
        (tmp_path / "home/.gitconfig").write_text("[credential]\n\thelper = store\n")
        (tmp_path / "home/.git-credentials").write_text(url.replace("//", "//ada:s3cret@") + "\n")
        assert (await agent(f"{url}/project.git", commit))["train.py"] == b"print('new')\n"
        # A password that the node's configuration puts into the URL.
        (tmp_path / "home/.gitconfig").write_text(
            f'[url "{url.replace("//", "//ada:s3cret@")}/"]\n\tinsteadOf = {url}/\n'
        )
        assert await agent(f"{url}/project.git", commit)
        with pytest.raises(NotFound) as caught:
            await agent(f"{url}/other.git", commit)
    assert "/other.git" in caught.value.message and "s3cret" not in caught.value.message
    assert not [line for line in agent.told if "s3cret" in line]
    assert any("/project.git/objects/" in path for path in seen)


async def test_nobody_is_asked_for_a_password(origin, agent, tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_DIR", "/nonexistent")
    monkeypatch.setenv("GIT_TRACE_CURL", "1")
    with private_git_over_http(tmp_path, "ada:s3cret") as (url, _):
        agent._checkouts = Checkouts(("http",))
        with pytest.raises(NotFound) as caught:
            await asyncio.wait_for(agent(f"{url}/x.git", "1" * 40), 30)
    assert "Authorization" not in caught.value.message


async def test_a_repository_with_sha256_ids_is_fetched(agent, tmp_path):
    tree = SourceTree(tmp_path / "modern")
    tree.root.mkdir()
    tree.git("init", "--quiet", "--object-format=sha256", "--initial-branch=main")
    commit = tree.commit({"a.py": "a"})
    assert len(commit) == 64
    assert await agent(tree.root, commit) == {"a.py": b"a"}


async def test_a_fetch_that_hangs_ends_with_the_attempt(agent):
    connected, gone = asyncio.Event(), asyncio.Event()

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connected.set()
        await reader.read()  # until whoever asks is gone
        gone.set()
        writer.close()

    agent._checkouts = Checkouts(("git",))
    async with await asyncio.start_server(hang, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with asyncio.TaskGroup() as group:
            task = group.create_task(agent(f"git://127.0.0.1:{port}/x", "1" * 40))
            await asyncio.wait_for(connected.wait(), 20)
            task.cancel()
        assert task.cancelled()
        await asyncio.wait_for(gone.wait(), 20)


async def test_a_node_without_git_says_so(origin, agent, monkeypatch):
    commit = origin.git("rev-parse", "HEAD")
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(FailedPrecondition, match="git is not installed on this node"):
        await agent(origin.root, commit)


async def test_a_commit_that_is_not_there(origin, agent):
    with pytest.raises(NotFound, match="commit 111111111111 of file://"):
        await agent(origin.root, "1" * 40)
