"""A source tree on its whole way: from a disk through a snapshot and the agent's check into a container."""

import io
import os
import tarfile
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest

from towline.capture.source import take_snapshot
from towline.errors import ResourceExhausted
from towline.v1 import jobs_pb2
from towline_agent import sources, tars
from towline_agent.core import archives
from towline_agent.engine.docker import connecting
from towline_testing.checkouts import git_checkout
from towline_testing.engine import base_image


class NeverAsked:
    """A registry that nothing is fetched from."""

    async def download(self, *arguments: object) -> None:
        raise AssertionError(arguments)


@pytest.fixture
async def container() -> AsyncIterator[tuple]:
    async with connecting(None) as engine:
        made = await engine.create(f"towline-test-{uuid4().hex}", {"Image": base_image()})
        try:
            yield engine, made
        finally:
            await engine.remove(made)


@pytest.mark.docker
async def test_what_was_on_disk_is_in_the_container_byte_for_byte(container, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    tree = git_checkout(tmp_path / "project")
    names = (
        *(
            b"train.py",
            b"gr\xc3\xb6\xc3\x9fe.txt",
            b"bad-\xff.txt",
            b"\xe9t\xe9/\xfe.py",
            b"README",
            b"readme",
        ),
        *(b"l" * 200 + b"/" + b"\xff" * 120, b"deep/" * 30 + b"x"),
    )
    tree.commit({os.fsdecode(name): os.urandom(1000) for name in names})
    (tree.root / "empty").write_bytes(b"")
    (tree.root / "train.py").chmod(0o755)
    links = {b"link-\xfe": b"bad-\xff.txt", b"deep/up": b"../README", b"loop": b"loop", b"folder": b"deep"}
    for link, target in links.items():
        (tree.root / os.fsdecode(link)).symlink_to(os.fsdecode(target))
    snapshot = take_snapshot(tree.root, checkout=True)
    assert snapshot.warnings == ()
    checked = tmp_path / "checked.tar"
    with snapshot.archive.open("rb") as taken, checked.open("wb") as target:
        archives.copy_below(taken, target, "workspace", 1000, archives.Bounds())
    engine, made = container
    await engine.put_archive(made, "/", tars.file_chunks(checked))
    back = b"".join([piece async for piece in engine.get_archive(made, "/workspace")])
    found: dict[bytes, bytes] = {}
    with tarfile.open(fileobj=io.BytesIO(back)) as tar:
        for member in tar:
            name = os.fsencode(member.name).removeprefix(b"workspace/")
            assert (member.uid, member.gid) == (1000, 1000)
            if member.issym():
                found[name] = b"-> " + os.fsencode(member.linkname)
            elif member.isfile():
                found[name] = tar.extractfile(member).read()
                assert bool(member.mode & 0o100) == (name == b"train.py")
    on_disk = {name: (tree.root / os.fsdecode(name)).read_bytes() for name in (*names, b"empty")}
    assert found == on_disk | {link: b"-> " + target for link, target in links.items()}


async def test_a_node_without_room_for_a_source_says_so_before_it_fetches_it(tmp_path, monkeypatch):
    monkeypatch.setattr(
        sources.shutil,
        "disk_usage",
        lambda path, real=sources.shutil.disk_usage: real(path)._replace(free=10**9),
    )
    made = sources.Sources(NeverAsked(), tmp_path, ())
    job = jobs_pb2.JobSpec(code=jobs_pb2.CodeSource(digest="sha256:" + "0" * 64, size_bytes=6 * 10**8))
    with pytest.raises(ResourceExhausted, match=r"572 MiB takes twice that in .* room for 954 MiB"):
        async with made.archive(job, lambda _: None):
            pass
    assert not list(tmp_path.iterdir())
