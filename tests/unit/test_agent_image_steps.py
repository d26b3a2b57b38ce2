"""How far getting an image is, and what it took: from what uv and the engine say."""

from datetime import timedelta

import pytest

from towline_agent.core import sizes
from towline_agent.core.apt_steps import AptSteps
from towline_agent.core.image_steps import Step, attempt_image
from towline_agent.core.transfers import Transfers
from towline_agent.core.uv_steps import UvSteps
from towline_agent.telling import Tell
from towline_testing.waiting import eventually_async

# Printed by uv 0.13.9 with UV_NO_PROGRESS=1.
INSTALLS = b"""\
Using Python 3.11.7 environment at: v
Resolved 12 packages in 118ms
   Building iniconfig==2.3.1
Downloading numpy (18.5MiB)
Downloading torch (1.5GiB)
 Downloaded numpy
      Built iniconfig==2.3.1
 Downloaded torch
Prepared 3 packages in 1m 05s
Uninstalled 1 package in 36ms
Installed 12 packages in 21ms
Bytecode compiled 498 files in 1.65s
 + attrs==26.1.0
"""
HAS_ALL = b"Resolved 2 packages in 40ms\nInstalled 2 packages in 5ms\n"


def said(output: bytes, piece: int) -> tuple[UvSteps, list[str]]:
    uv = UvSteps()
    told = [uv.feed(output[at : at + piece]) for at in range(0, len(output), piece)]
    return uv, [line for line in told if line]


@pytest.mark.parametrize("piece", [1, 7])
def test_what_uv_does_is_read_line_by_line(piece: int) -> None:
    uv, told = said(INSTALLS, piece)
    assert told == [
        "resolved 12 packages",
        "building iniconfig==2.3.1",
        "downloading numpy (18.5 MiB), building iniconfig==2.3.1",
        "downloading numpy, torch (1.5 GiB), building iniconfig==2.3.1",
        "downloading torch (1.5 GiB), building iniconfig==2.3.1",
        "downloading torch (1.5 GiB)",
        "prepared 3 packages",
        "installed 12 packages, 9 from the cache",
        "bytecode compiled 498 modules",
    ]
    transferred = int(18.5 * 2**20) + int(1.5 * 2**30)
    assert uv.steps == [
        Step("resolve packages", 0.118, 12),
        Step("fetch packages", 65.0, 3, transferred=transferred),
        Step("install packages", 0.021, 12, cached=9),
        Step("compile modules", 1.65, 498),
    ]


def test_a_second_installation_of_uv_counts_for_itself() -> None:
    uv, told = said(INSTALLS + HAS_ALL, len(INSTALLS))
    assert told[-1] == "installed 2 packages, 2 from the cache"
    assert uv.steps[-1] == Step("install packages", 0.005, 2, cached=2)


@pytest.mark.parametrize(
    "line",
    [b"\xff\x00\n", b"Resolved many packages in 1ms\n", b"x" * 2**20, b"Resolved 1 package in 1.2.3s\n"],
)
def test_what_is_not_understood_of_uv_harms_nothing(line: bytes) -> None:
    uv = UvSteps()
    uv.feed(line)
    assert uv.feed(b"\nInstalled 1 package in 1ms\n")


# Printed by apt 2.6 with --quiet, shortened; it had two of the packages.
APT = b"""\
The following NEW packages will be installed:
  cowsay hello libtext-charwidth-perl sl
1 upgraded, 3 newly installed, 0 to remove and 133 not upgraded.
Need to get 30.9 kB/97.1 kB of archives.
Get:1 http://deb.debian.example/debian bookworm/main amd64 libtext-charwidth-perl amd64 0.04-11 [9496 B]
Get:2 http://deb.debian.example/debian bookworm/main amd64 cowsay all 3.03+dfsg2-8 [21.4 kB]
Fetched 30.9 kB in 0s (420 kB/s)
(Reading database ... 6089 files and directories currently installed.)
Preparing to unpack .../hello_2.10-3_amd64.deb ...
Unpacking hello (2.10-3) ...
Setting up hello (2.10-3) ...
"""


def test_what_apt_does_is_read_line_by_line() -> None:
    apt, step = AptSteps(), Step("install system packages")
    told = [apt.feed(APT[at : at + 9]) for at in range(0, len(APT), 9)]
    assert [line for line in told if line] == [
        "4 packages with what they need",
        "downloading libtext-charwidth-perl",
        "downloading cowsay",
        "unpacking hello",
        "setting up hello, 1 of 4",
    ]
    apt.count(step)
    assert step == Step("install system packages", 0.0, 4, cached=2, transferred=30_900)


# As Docker 20.10 told of an image of two layers, shortened, and of one that it had in part.
PULL = [
    {"status": "Pulling from t/x", "id": "1"},
    {"status": "Already exists", "progressDetail": {}, "id": "3f4ca61aafcd"},
    {"status": "Pulling fs layer", "progressDetail": {}, "id": "20606d7b5be2"},
    {"status": "Pulling fs layer", "progressDetail": {}, "id": "a579860456df"},
    {"status": "Downloading", "progressDetail": {"current": 104, "total": 104}, "id": "a579860456df"},
    {"status": "Verifying Checksum", "progressDetail": {}, "id": "a579860456df"},
    {"status": "Download complete", "progressDetail": {}, "id": "a579860456df"},
    {"status": "Downloading", "progressDetail": {"current": 302080, "total": 30009361}, "id": "20606d7b5be2"},
    {"status": "Download complete", "progressDetail": {}, "id": "20606d7b5be2"},
    {"status": "Extracting", "progressDetail": {"current": 327680, "total": 30009361}, "id": "20606d7b5be2"},
    {"status": "Pull complete", "progressDetail": {}, "id": "20606d7b5be2"},
    {"status": "Pull complete", "progressDetail": {}, "id": "a579860456df"},
    {"status": "Digest: sha256:f1113ea8b2ca6dad5a1f3c4d0fa1860ffbb52ea15f7c121146d304c02acc968d"},
]
PUSH = [
    {"status": "The push refers to repository [127.0.0.1:46269/t/x]"},
    {"status": "Preparing", "progressDetail": {}, "id": "7f909d05b6a4"},
    {"status": "Preparing", "progressDetail": {}, "id": "0d0451f63ed6"},
    {"status": "Layer already exists", "progressDetail": {}, "id": "0d0451f63ed6"},
    {"status": "Pushing", "progressDetail": {"current": 512, "total": 100}, "id": "7f909d05b6a4"},
    {"status": "Pushed", "progressDetail": {}, "id": "7f909d05b6a4"},
    {"progressDetail": {}, "aux": {"Tag": "1", "Digest": "sha256:f1113ea8b2ca", "Size": 736}},
]


def test_layers_of_a_pull_and_of_a_push_add_up() -> None:
    pull = Transfers()
    lines = [str(pull.feed(item)) for item in PULL]
    assert lines[0] == "asking its registry"
    assert lines[3] == "1 of 3 layers"
    assert lines[6] == "1 of 3 layers, 104 of 104 B"
    assert lines[7] == "1 of 3 layers, 0.3 of 28.6 MiB"
    assert lines[9] == "1 of 3 layers, 28.6 of 28.6 MiB"
    whole = pull.feed({"status": "Status: Downloaded newer image for 127.0.0.1:46269/t/x:1"})
    assert (whole.layers, whole.done, whole.cached, whole.moved_bytes) == (3, 3, 1, 30009361 + 104)
    push = Transfers()
    assert [str(push.feed(item)) for item in PUSH][-1] == "2 of 2 layers, 512 of 512 B"


def test_sizes_are_written_in_the_unit_of_the_whole() -> None:
    assert sizes.written(512) == "512 B" and sizes.written(3 * 2**29) == "1.5 GiB"
    assert sizes.part(100, 1000) == "100 of 1000 B" and sizes.part(2**19, 2**21) == "0.5 of 2.0 MiB"


async def test_what_is_told_often_is_told_twice_a_second_and_at_last() -> None:
    told: list[str] = []
    tell = Tell(told.append)
    with tell.step("pull"):
        for number in range(1000):
            tell.often(f"layer {number}")
        assert told == ["layer 0"]
        assert tell.said == "layer 999", "a renewal tells the newest"
        await eventually_async(lambda: _two(told))
        assert told == ["layer 0", "layer 999"]
        tell.often("done")
    assert told[2:] == ["done"], "the end of a step holds nothing back"
    tell.often("late")
    tell("next")
    tell.settle()
    assert told[3:] == ["next"], "what is out of date is not told"


async def _two(told: list[str]) -> bool:
    return len(told) == 2


def test_steps_that_were_broken_off_count_and_nameless_ones_do_not() -> None:
    tell = Tell(lambda _: None)
    assert tell.image() is None
    with tell.step("") as step:
        pass
    assert tell.image() is None, "nothing was done"
    with pytest.raises(KeyError), tell.step("") as step:
        step.name = "wait"
        raise KeyError
    tell.did(Step("resolve packages", 1.5, 12))
    image = tell.image(2**20)
    assert image is not None and image.size_bytes == 2**20
    assert [step.name for step in image.steps] == ["wait", "resolve packages"]
    assert image.steps[1].duration.ToTimedelta() == timedelta(seconds=1.5)


def test_a_message_takes_so_many_steps_and_no_longer_names() -> None:
    image = attempt_image([Step("x" * 1000)] * 100, 2.0)
    assert len(image.steps) == 32 and len(image.steps[0].name) == 256
    assert image.duration.ToTimedelta() == timedelta(seconds=2)
