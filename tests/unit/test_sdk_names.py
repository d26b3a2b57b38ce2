"""Names as people write them."""

import pytest

from towline.client import shorthand
from towline.errors import InvalidArgument


@pytest.mark.parametrize(
    ("read", "written", "whole"),
    [
        (shorthand.job, "digits", "jobs/digits"),
        (shorthand.job, "jobs/digits", "jobs/digits"),
        (shorthand.job_version, "digits", "jobs/digits/versions/latest"),
        (shorthand.job_version, "digits:v3", "jobs/digits/versions/v3"),
        (shorthand.job_version, "jobs/digits", "jobs/digits/versions/latest"),
        (shorthand.job_version, "jobs/digits/versions/best", "jobs/digits/versions/best"),
        (shorthand.job_or_version, "digits", "jobs/digits"),
        (shorthand.job_or_version, "digits:v1", "jobs/digits/versions/v1"),
        (shorthand.artifact, "mnist", "artifacts/mnist"),
        (shorthand.artifact_version, "mnist:v0", "artifacts/mnist/versions/v0"),
        (shorthand.queue, "default", "queues/default"),
        (shorthand.queue, "queues/default", "queues/default"),
        (shorthand.run, "abc-1", "runs/abc-1"),
        (shorthand.agent, "node.1", "agents/node.1"),
    ],
)
def test_short_and_whole_names_are_read(read, written, whole):
    assert read(written) == whole


@pytest.mark.parametrize(
    ("read", "written", "field"),
    [
        (shorthand.job, "a/b", "job"),
        (shorthand.job_version, "digits:", "job"),
        (shorthand.job_version, "", "job"),
        (shorthand.queue, "Default", "queue"),
        (shorthand.run, "../x", "run"),
        (shorthand.artifact_version, "mnist:v0:v1", "artifact"),
    ],
)
def test_what_is_no_name_is_refused_by_field(read, written, field):
    with pytest.raises(InvalidArgument) as caught:
        read(written)
    assert caught.value.metadata == {"field": field}
