"""Files that a run has left, listed in bounded memory."""

import tarfile
from pathlib import Path

import pytest

from towline.errors import InvalidArgument
from towline_agent.outputs import FileList


def test_a_list_takes_as_many_as_an_artifact_may_have_and_no_more() -> None:
    found = FileList(Path("not-read"), "the outputs")
    pipe = tarfile.TarInfo("outputs/pipe")
    pipe.type = tarfile.FIFOTYPE
    for number in range(100_000):
        found.add(pipe, f"pipe-{number}")
    with pytest.raises(InvalidArgument, match=r"the outputs are more than 100000 files; pack") as refused:
        found.add(pipe, "one-more")
    assert refused.value.reason == "TOO_MANY_OUTPUTS"
