"""What is uploaded of a folder, what is refused, and which digests need not be computed again."""

import asyncio
import hashlib
import os
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from towline.client import reading, trees
from towline.client.known_digests import KnownDigests
from towline.client.transfers import Watch
from towline.client.trees import Entry, entries_of
from towline.errors import FailedPrecondition, InvalidArgument

NOBODY = 65534
LONG_AGO_NS = 1_600_000_000 * 10**9


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "sub/deeper").mkdir(parents=True)
    (root / "b").write_bytes(b"bb")
    (root / "sub/a").write_bytes(b"a")
    return root


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TOWLINE_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def refused(source: Path) -> str:
    with pytest.raises(InvalidArgument) as failure:
        entries_of(source)
    assert failure.value.metadata["field"] == "source"
    return failure.value.message


def paths(source: Path) -> list[str]:
    return [entry.path for entry in entries_of(source)]


async def digests(entries: list[Entry]) -> dict[str, str]:
    found, _ = await reading.digests_of(entries, Watch(None, 0, 0))
    return found


@contextmanager
def files_read(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Collect the paths of the files that are read in the block."""
    read: list[str] = []
    opened = reading.opened

    def noted(entry: Entry) -> int:
        read.append(entry.path)
        return opened(entry)

    with monkeypatch.context() as patch:
        patch.setattr(reading, "opened", noted)
        yield read


@contextmanager
def not_as_root(root: Path) -> Iterator[None]:
    """Be somebody else in the block, who may go to `root`."""
    ours = [folder for folder in (root, *root.parents) if folder.owner() == root.owner()]
    modes = {folder: stat.S_IMODE(folder.stat().st_mode) for folder in ours}
    was = os.geteuid()
    try:
        for folder, mode in modes.items():
            folder.chmod(mode | 0o055)
        if was == 0:
            os.seteuid(NOBODY)
        yield
    finally:
        os.seteuid(was)
        for folder, mode in modes.items():
            folder.chmod(mode)


def break_cache(cache: Path, content: bytes) -> None:
    [file] = cache.glob("*.sqlite")
    file.write_bytes(content)
    for more in cache.glob("*.sqlite-*"):
        more.unlink()


def age(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make all that was written until now old enough for its digests to be kept."""
    now_ns = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now_ns + 60 * 10**9)


def test_files_in_order_and_who_may_execute_them(root: Path) -> None:
    (root / "b").chmod(0o755)
    entries = entries_of(root)
    assert [(entry.path, entry.executable, entry.stamp.size_bytes) for entry in entries] == [
        ("b", True, 2),
        ("sub/a", False, 1),
    ]
    assert [(entry.path, entry.place) for entry in entries_of(root / "b")] == [("b", str(root / "b"))]
    assert paths(root / "sub/deeper") == []


def test_links_that_stay_are_followed(root: Path) -> None:
    (root / "file").symlink_to("sub/a")
    (root / "folder").symlink_to("sub")
    (root / "sub/absolute").symlink_to(root / "b")
    assert paths(root) == ["b", "file", "folder/a", "folder/absolute", "sub/a", "sub/absolute"]
    outer = root.parent / "outer"
    outer.symlink_to(root)
    assert paths(outer) == paths(root)


def test_what_is_no_file_is_refused_by_name(root: Path) -> None:
    os.mkfifo(root / "sub/pipe")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(root / "socket"))
        message = refused(root)
    assert "'sub/pipe' is a named pipe" in message
    assert "'socket' is a socket" in message
    if os.geteuid() == 0:
        os.mknod(root / "null", 0o600 | stat.S_IFCHR, os.makedev(1, 3))
        assert "'null' is a device" in refused(root)
    assert "is a named pipe, no folder and no file" in refused(root / "sub/pipe")


@pytest.mark.parametrize("target", ["/etc/passwd", "/etc", "../beside", "../root-and-more"])
def test_links_that_lead_out_are_refused_by_name(root: Path, target: str) -> None:
    (root.parent / "beside").write_bytes(b"")
    (root.parent / "root-and-more").mkdir()
    (root / "sub/out").symlink_to(target if target.startswith("/") else f"../{target}")
    assert "'sub/out' is a link out of the folder" in refused(root)


def test_links_that_lead_nowhere_or_around_are_refused_by_name(root: Path) -> None:
    (root / "nowhere").symlink_to("none")
    (root / "self").symlink_to("self")
    (root / "sub/deeper/up").symlink_to("../..")
    message = refused(root)
    assert "'nowhere' cannot be read: No such file" in message
    assert "'self' cannot be read: Too many levels" in message
    assert "'sub/deeper/up' is a link to a folder that it lies in" in message


def test_two_folders_that_link_to_each_other_end(root: Path) -> None:
    (root / "sub/over").symlink_to("../other")
    (root / "other").mkdir()
    (root / "other/back").symlink_to("../sub")
    assert "is a link to a folder that it lies in" in refused(root)


def test_names_that_are_not_utf8_are_refused_as_they_are(root: Path) -> None:
    (root / os.fsdecode(b"caf\xe9")).write_bytes(b"")
    message = refused(root)
    assert r"'caf\udce9': the name is not UTF-8" in message
    message.encode()


def test_no_more_are_named_than_one_can_read(root: Path) -> None:
    for number in range(9):
        os.mkfifo(root / f"pipe{number}")
    assert refused(root).endswith("and 4 more")


def test_too_many_files_are_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trees, "MOST_FILES", 1)
    assert "2 files are too many; at most 1 are taken" in refused(root)


async def test_what_cannot_be_read_is_refused_by_name(root: Path) -> None:
    entries = entries_of(root)
    await digests(entries)  # what is imported late is imported
    (root / "sub/a").chmod(0)
    with (
        not_as_root(root),
        pytest.raises(InvalidArgument, match=r"'sub/a' cannot be read \(Permission denied\)"),
    ):
        await digests(entries)


@pytest.mark.parametrize("how", ["changed", "vanished"])
async def test_what_changes_or_vanishes_is_named(root: Path, how: str) -> None:
    entries = entries_of(root)
    (root / "sub/a").write_bytes(b"other") if how == "changed" else (root / "sub/a").unlink()
    with pytest.raises(FailedPrecondition, match=f"'sub/a' {how} while it was uploaded") as failure:
        await digests(entries)
    assert failure.value.reason == "FILE_CHANGED"


async def test_holes_are_read_as_zeros(root: Path) -> None:
    with (root / "holes").open("wb") as file:
        file.truncate(80 * 1024 * 1024)
    found = await digests(entries_of(root / "holes"))
    assert found["holes"] == "sha256:" + hashlib.sha256(bytes(80 * 1024 * 1024)).hexdigest()


async def test_digests_are_computed_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    age(monkeypatch)
    first = await digests(entries_of(root))
    with files_read(monkeypatch) as read:
        assert await digests(entries_of(root)) == first
    assert read == []


async def test_digests_of_files_just_written_are_not_kept(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Other content within the same tick of the clock would not show.
    for _ in range(2):
        with files_read(monkeypatch) as read:
            await digests(entries_of(root))
        assert sorted(read) == ["b", "sub/a"]


async def test_content_of_the_same_size_and_time_is_noticed(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.utime(root / "b", ns=(LONG_AGO_NS, LONG_AGO_NS))
    age(monkeypatch)
    first = await digests(entries_of(root))
    (root / "b").write_bytes(b"BB")
    os.utime(root / "b", ns=(LONG_AGO_NS, LONG_AGO_NS))
    assert (await digests(entries_of(root)))["b"] != first["b"]


async def test_a_file_put_in_the_place_of_another_is_noticed(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "new").write_bytes(b"BB")
    for name in ("b", "new"):
        os.utime(root / name, ns=(LONG_AGO_NS, LONG_AGO_NS))
    age(monkeypatch)
    first = await digests(entries_of(root))
    (root / "new").replace(root / "b")
    assert (await digests(entries_of(root)))["b"] == first["new"]


@pytest.mark.parametrize("content", [b"no database at all" * 1000, b""])
async def test_a_cache_that_is_broken_is_none(
    root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    age(monkeypatch)
    first = await digests(entries_of(root))
    break_cache(cache, content)
    assert await digests(entries_of(root)) == first
    with files_read(monkeypatch) as read:
        assert await digests(entries_of(root)) == first
    assert read == [], "it is made anew"


async def test_a_cache_that_cannot_be_written_is_none(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOWLINE_CACHE_DIR", str(tmp_path / "file/cache"))
    (tmp_path / "file").write_bytes(b"")
    assert set(await digests(entries_of(root))) == {"b", "sub/a"}


def test_inodes_of_any_size_are_kept(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    age(monkeypatch)
    entry = entries_of(root / "b")[0]
    entry = entry._replace(stamp=entry.stamp._replace(inode=2**64 - 1))
    KnownDigests().note({entry: "ab" * 32}, time.time_ns())
    assert KnownDigests().of([entry]) == {"b": "ab" * 32}


async def test_many_uploads_share_the_cache(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    age(monkeypatch)
    for number in range(600):
        (root / f"sub/{number}").write_bytes(str(number).encode())
    age(monkeypatch)
    entries = entries_of(root)
    async with asyncio.TaskGroup() as group:
        for _ in range(3):
            group.create_task(digests(entries))
    with files_read(monkeypatch) as read:
        assert len(await digests(entries)) == 602
    assert read == []
