"""System packages and platforms, as recording finds them."""

import pytest

from towline.capture.system_packages import image_platform, of_project
from towline.errors import InvalidArgument
from towline.requests.system import checked


@pytest.mark.parametrize(
    ("files", "packages", "note"),
    [
        ({}, (), ""),
        (
            {"apt.txt": "ffmpeg  # for video\n\nlibgl1 tree\n"},
            ("ffmpeg", "libgl1", "tree"),
            "from apt.txt: ffmpeg",
        ),
        ({"apt.txt": "tree", "packages.txt": "ffmpeg"}, ("tree",), "from apt.txt: tree"),
        ({"packages.txt": "tree=2.1.0-1+b1\ntree=2.1.0-1+b1"}, ("tree=2.1.0-1+b1",), "from packages.txt"),
        ({"packages.txt": "numpy>=2\n"}, (), "'numpy>=2' is no name of one"),
        ({"apt.txt": "g++ libc6-"}, (), "'libc6-' is no name of one"),  # which apt-get would remove
        ({"apt.txt": "g++=4:12-"}, (), "'g++=4:12-' is no name of one"),
        ({"packages.txt": "# nothing yet\n"}, (), ""),
        ({"apt.txt": b"\xff"}, (), ""),
    ],
)
def test_what_a_project_lists(tmp_path, files, packages, note):
    for name, content in files.items():
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    found = of_project(tmp_path)
    assert found.packages == packages
    assert note in " ".join(found.notes) and bool(note) == bool(found.notes)


def test_what_is_no_package_is_refused_by_the_name_of_the_option():
    assert checked(["tree", "ffmpeg", "tree"], "--system-package") == ("ffmpeg", "tree")
    with pytest.raises(InvalidArgument, match=r"--system-package.*'--yes' is no name of a Debian package"):
        checked(["--yes"], "--system-package")


@pytest.mark.parametrize(
    ("machine", "platform"),
    [
        ("Linux-6.1.0-x86_64-with-glibc2.36", "linux/amd64"),
        ("Linux-5.15.0-1040-nvidia-64k-aarch64-with-glibc2.35", "linux/arm64"),
        ("macOS-14.5-arm64-arm-64bit", ""),
        ("Linux-6.1.0-riscv64", ""),
        ("", ""),
    ],
)
def test_platforms(machine, platform):
    assert image_platform(machine) == platform
