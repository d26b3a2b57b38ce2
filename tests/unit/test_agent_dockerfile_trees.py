"""Source trees of builds with a Dockerfile, looked into by a process of its own."""

import io
import tarfile
from pathlib import Path

import pytest

from towline.errors import InvalidArgument
from towline.v1 import jobs_pb2
from towline_agent.dockerfile_trees import look_into
from towline_agent.source_files import FOLDER

BUILD = jobs_pb2.DockerfileBuild(path="Dockerfile")
PLATFORM = "linux/amd64"


def packed(folder: Path, **files: str) -> Path:
    """Write an archive with files; "__" stands for a dot in their names."""
    path = folder / "tree.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(f"{FOLDER}/{name.replace('__', '.')}")
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
    return path


async def test_it_finds_what_a_build_needs_and_writes_its_context(tmp_path: Path) -> None:
    tree = packed(
        tmp_path, Dockerfile="FROM a:1\nRUN --mount=type=secret,id=t true\n", __dockerignore="b\n", b="", c=""
    )
    found = await look_into(tree, tmp_path / "context.tar", BUILD, PLATFORM)
    assert (found.needs.bases, found.needs.secrets) == (("a:1",), ("t",))
    assert found.needs.needs_buildkit and found.context.startswith("sha256:")
    assert found.text.startswith("FROM a:1\n")
    with tarfile.open(tmp_path / "context.tar") as context:
        assert context.getnames() == ["Dockerfile", ".dockerignore", "c"]


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"a": ""}, "no file Dockerfile"),
        ({"Dockerfile": "FROM a\n" + "#" * 300_000}, "too large for a Dockerfile"),
        ({"Dockerfile": "RUN x\n"}, "Dockerfile: "),
    ],
)
async def test_what_is_wrong_is_told(tmp_path: Path, files: dict[str, str], words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        await look_into(packed(tmp_path, **files), tmp_path / "context.tar", BUILD, PLATFORM)


async def test_patterns_that_take_for_ever_hold_up_nobody(tmp_path: Path) -> None:
    tree = packed(tmp_path, Dockerfile="FROM a\n", __dockerignore="*a" * 12 + "b\n", **{"a" * 120: ""})
    with pytest.raises(InvalidArgument, match="simpler patterns"):
        await look_into(tree, tmp_path / "context.tar", BUILD, PLATFORM, longest_s=2)
