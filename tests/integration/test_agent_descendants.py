"""Environments made from what differs from an earlier one: the same as those made of nothing."""

from uuid import uuid4

import pytest

from towline.v1 import jobs_pb2, runs_pb2
from towline_agent.builder import Ready
from towline_agent.telling import Tell
from towline_testing.agent import code_spec, launch_spec
from towline_testing.builds import Builds, always, run_in, unique

pytestmark = pytest.mark.docker

KEPT = ("attrs==24.2.0", "certifi==2024.8.30", "packaging==24.1", "pluggy==1.5.0", "zipp==3.20.2")
BEFORE = ("idna==3.9", "six==1.16.0")
AFTER = ("idna==3.10",)
# Also of packages that went: what their removal leaves would be seen here.
ALL_FILES = "cd /opt/venv && find . -not -name '*.pyc' -type f | sort | xargs sha256sum; find . | sort"


async def build(builds: Builds, job: str, requirements: tuple[str, ...]) -> str:
    """Build an image that holds these requirements and nothing else; returns its id."""
    source = await builds.source(main_py=unique(), **{f"{uuid4().hex}_py": ""})
    spec = code_spec(*source, requirements=requirements)
    spec.python.complete = True
    got = await builds.images.ensure(_launched(spec, job), builds.log, Tell(builds.told.append))
    assert isinstance(got, Ready), got
    assert got.outcome == runs_pb2.IMAGE_OUTCOME_BUILT
    builds.made.append(got.facts.id)
    return got.facts.id


def _launched(spec: jobs_pb2.JobSpec, job: str) -> runs_pb2.LaunchSpec:
    launched = launch_spec(spec)
    launched.job_version = f"jobs/{job}/versions/v0"
    return launched


async def test_a_changed_list_installs_what_differs_and_is_the_same_environment(builds: Builds) -> None:
    job, other_job = uuid4().hex, uuid4().hex
    marked = f"iniconfig==2.0.0; {always()}"
    first = await build(builds, job, (*KEPT, *BEFORE, marked))
    assert "idna-3.9.dist-info" in run_in(first, "ls", "/opt/venv/lib/python3.11/site-packages")
    builds.told.clear()
    descended = await build(builds, job, (*KEPT, *AFTER, marked))
    assert any("installing 1 requirements that an earlier environment" in line for line in builds.told)
    # One that is not on the node: the marker makes it another, and its job has no other.
    anew = await build(builds, other_job, (*KEPT, *AFTER, f"iniconfig==2.0.0; {always()}"))
    assert run_in(descended, "sh", "-c", ALL_FILES) == run_in(anew, "sh", "-c", ALL_FILES)
    # Made from an environment, never from an image that has a source tree as well.
    assert len(run_in(descended, "ls", "/workspace").split()) == 2
    listed = run_in(descended, "python", "-c", "import idna; print(idna.__version__)")
    assert listed.strip() == "3.10"


async def test_a_change_that_cannot_be_installed_is_tried_anew_and_says_why(builds: Builds) -> None:
    job, marked = uuid4().hex, f"iniconfig==2.0.0; {always()}"
    await build(builds, job, (*KEPT, *BEFORE, marked))
    wrong = ("idna==0.0.0.dev0", "six==1.16.0")
    spec = code_spec(*await builds.source(main_py=unique()), requirements=(*KEPT, *wrong, marked))
    spec.python.complete = True
    got = await builds.images.ensure(_launched(spec, job), builds.log, Tell(builds.told.append))
    assert not isinstance(got, Ready)
    assert got.failure.cause == runs_pb2.FAILURE_CAUSE_IMAGE_BUILD
    assert "idna==0.0.0.dev0" in got.failure.message + got.failure.log_tail
    assert b"starting anew" in builds.log.data
