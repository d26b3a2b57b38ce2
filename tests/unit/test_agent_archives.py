"""No member of a source archive leaves its tree, whatever the archive says."""

import errno
import io
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from towline.errors import InvalidArgument
from towline_agent.core.archives import Bounds, check, copy_below, normalized


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", size: int = 0) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname, made.size = kind, link, size
    return made


def folder(name: str) -> tarfile.TarInfo:
    return member(name, tarfile.DIRTYPE)


def symlink(name: str, target: str) -> tarfile.TarInfo:
    return member(name, tarfile.SYMTYPE, target)


def hardlink(name: str, target: str) -> tarfile.TarInfo:
    return member(name, tarfile.LNKTYPE, target)


REFUSED = {
    "up": [member("../x")],
    "up inside": [member("a/../../x")],
    "up that stays": [member("a/../x")],
    "absolute": [member("/x")],
    "empty name": [member("")],
    "device": [member("x", tarfile.CHRTYPE)],
    "block device": [member("x", tarfile.BLKTYPE)],
    "pipe": [member("x", tarfile.FIFOTYPE)],
    "unknown type": [member("x", b"Z")],
    "link up": [symlink("x", "../y")],
    "link absolute": [symlink("x", "/etc/passwd")],
    "link empty": [symlink("x", "")],
    "link up from below": [folder("a"), symlink("a/x", "../../y")],
    "link through a link": [symlink("a/b/l", "../.."), symlink("m", "a/b/l/../x")],
    "link through a later link": [symlink("m", "a/b/l/../x"), symlink("a/b/l", "../..")],
    "hard link outside": [hardlink("x", "../y")],
    "hard link absolute": [hardlink("x", "/etc/passwd")],
    "hard link to nothing": [hardlink("x", "y")],
    "hard link to a later file": [hardlink("x", "y"), member("y")],
    "hard link to a link": [symlink("y", "z"), hardlink("x", "y")],
    "same file twice": [member("x"), member("./x")],
    "file, then link": [member("x"), symlink("x", "y")],
    "link, then file": [symlink("x", "y"), member("x")],
    "folder, then link": [folder("x"), symlink("x", "y")],
    "link, then folder": [symlink("x", "y"), folder("x")],
    "folder by a file, then link": [member("x/y"), symlink("x", "z")],
    "below a link": [folder("z"), symlink("x", "z"), member("x/y")],
    "below a file": [member("x"), member("x/y")],
    "the root itself": [symlink(".", "x")],
}


@pytest.mark.parametrize("members", REFUSED.values(), ids=REFUSED.keys())
def test_what_is_refused(members: list[tarfile.TarInfo]) -> None:
    with pytest.raises(InvalidArgument) as caught:
        check(members, Bounds())
    assert caught.value.reason == "UNSAFE_ARCHIVE"
    assert caught.value.metadata["member"] in {entry.name for entry in members}
    assert repr(caught.value.metadata["member"]) in caught.value.message


ALLOWED = {
    "files and folders": [folder("."), folder("a/"), member("a/b"), member("./c"), folder("a")],
    "folder after its file": [member("a/b"), folder("a")],
    "link beside": [member("a"), symlink("b", "a")],
    "link up inside": [symlink("a/b/c", "../../d"), member("d")],
    "link to nothing": [symlink("a", "b/c")],
    "link to the root": [symlink("a/b", "..")],
    "loop": [symlink("a", "b"), symlink("b", "a")],
    "hard link": [member("a"), hardlink("b", "./a")],
    "dots in names": [member("..a"), member("a..b"), member("...")],
}


@pytest.mark.parametrize("members", ALLOWED.values(), ids=ALLOWED.keys())
def test_what_is_allowed(members: list[tarfile.TarInfo]) -> None:
    check(members, Bounds())


def test_bounds() -> None:
    with pytest.raises(InvalidArgument, match="3 members, more than 2"):
        check([member("a"), member("b"), member("c")], Bounds(members=2))
    with pytest.raises(InvalidArgument, match="11 bytes, more than 10"):
        check([member("a", size=6), member("b", size=5)], Bounds(total_bytes=10))


PARTS = st.sampled_from(["a", "b", "c", ".", "..", ""])
PATHS = st.lists(PARTS, min_size=1, max_size=5).map("/".join)
KINDS = st.sampled_from(
    [tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE]
)
MEMBERS = st.lists(st.builds(member, PATHS, KINDS, PATHS), max_size=6)


def _is_loop(path: Path) -> bool:
    """Ask the kernel: pathlib resolves some loops ("a" → "a//a") to a path outside."""
    try:
        path.stat()
    except OSError as error:
        if error.errno == errno.ELOOP:
            return True
    try:
        path.resolve()
    except RuntimeError:  # a loop behind a name that is not there
        return True
    return False


@settings(max_examples=400, deadline=None)
@given(MEMBERS)
def test_what_is_accepted_stays_in_its_tree_on_a_real_file_system(
    tmp_path_factory: pytest.TempPathFactory, members: list[tarfile.TarInfo]
) -> None:
    """The kernel is asked, not the code: every path that is made resolves below the root."""
    source, target = io.BytesIO(), io.BytesIO()
    with tarfile.open(fileobj=source, mode="w") as archive:
        for entry in members:
            archive.addfile(entry)
    source.seek(0)
    try:
        copy_below(source, target, "tree", 1000, Bounds())
    except InvalidArgument:
        return
    root = tmp_path_factory.mktemp("x")
    target.seek(0)
    with tarfile.open(fileobj=target) as checked:
        checked.extractall(root, filter=lambda entry, _: entry.replace(uid=0, gid=0, deep=False))
    tree = (root / "tree").resolve()
    assert list(root.iterdir()) == [root / "tree"]
    for path in tree.rglob("*"):
        if _is_loop(path):  # it leads nowhere
            continue
        resolved = path.resolve(strict=False)
        assert resolved == tree or tree in resolved.parents, (path, resolved)


def test_the_copy_belongs_to_its_owner_and_lies_in_its_folder() -> None:
    source, target = io.BytesIO(), io.BytesIO()
    with tarfile.open(fileobj=source, mode="w") as archive:
        tool = member("deep/er/tool", size=3)
        tool.mode, tool.uid, tool.mtime = 0o4755, 0, 1234
        archive.addfile(tool, io.BytesIO(b"abc"))
        archive.addfile(hardlink("deep/same", "deep/er/tool"))
        archive.addfile(symlink("deep/link", "er/tool"))
    source.seek(0)
    copy_below(source, target, "w/s", 77, Bounds())
    target.seek(0)
    with tarfile.open(fileobj=target) as copy:
        assert copy.getnames() == [
            "w/s",
            "w/s/deep",
            "w/s/deep/er",
            "w/s/deep/er/tool",
            "w/s/deep/same",
            "w/s/deep/link",
        ]
        assert {(entry.uid, entry.gid) for entry in copy} == {(77, 77)}
        tool = copy.getmember("w/s/deep/er/tool")
        assert (tool.mode, tool.mtime) == (0o755, 1234)
        content = copy.extractfile("w/s/deep/same")
        assert content and content.read() == b"abc"
        assert copy.getmember("w/s/deep/link").linkname == "er/tool"


@pytest.mark.parametrize("data", [b"no archive", b"x" * 512, b""])
def test_what_is_no_archive(data: bytes) -> None:
    with pytest.raises(InvalidArgument) as caught:
        copy_below(io.BytesIO(data), io.BytesIO(), "tree", 0, Bounds())
    assert caught.value.reason == "INVALID_ARCHIVE"


def test_an_archive_cut_off() -> None:
    source = io.BytesIO()
    with tarfile.open(fileobj=source, mode="w") as archive:
        archive.addfile(member("a", size=5000), io.BytesIO(b"x" * 5000))
        archive.addfile(member("b", size=5000), io.BytesIO(b"x" * 5000))
    cut = io.BytesIO(source.getvalue()[:7000])
    with pytest.raises(InvalidArgument) as caught:
        copy_below(cut, io.BytesIO(), "tree", 0, Bounds())
    assert caught.value.reason == "INVALID_ARCHIVE"


def test_names_are_normalized() -> None:
    assert [normalized(name) for name in ("a//b/", "./a", ".", "a/./b")] == ["a/b", "a", ".", "a/b"]
    assert Path(normalized("a//b")) == Path("a/b")
