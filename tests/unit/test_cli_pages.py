"""What people read about a run says all that the run says."""

from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console

from towline.cli import enums, pages, words
from towline.errors import InvalidArgument
from towline.v1 import jobs_pb2, runs_pb2

START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def _run() -> runs_pb2.Run:
    run = runs_pb2.Run(
        name="runs/r1",
        display_name="digits [v2]",
        queue="queues/default",
        job_version="jobs/digits/versions/v0",
        priority=runs_pb2.PRIORITY_HIGH,
        config_json='{"lr": 0.1}',
        variables={"gpus": "1"},
        author="ada",
        state=runs_pb2.RUN_STATE_FAILED,
        queue_position=-1,
        labels={"team": "vision"},
        outputs="artifacts/run-r1/versions/v0",
    )
    run.create_time.FromDatetime(START)
    run.end_time.FromDatetime(START + timedelta(seconds=70))
    attempt = run.attempts.add(
        epoch=3,
        agent="agents/node-1",
        image_outcome=runs_pb2.IMAGE_OUTCOME_REUSED,
        image_id="sha256:" + "a" * 64,
        gpu_ids=["GPU-1"],
        exit_code=1,
        outcome=runs_pb2.ATTEMPT_OUTCOME_FAILED,
    )
    attempt.times.lease_time.FromDatetime(START + timedelta(seconds=1))
    attempt.times.start_time.FromDatetime(START + timedelta(seconds=6))
    attempt.times.end_time.FromDatetime(START + timedelta(seconds=70))
    run.failure.CopyFrom(
        runs_pb2.Failure(
            cause=runs_pb2.FAILURE_CAUSE_USER_ERROR,
            message="exit code 1",
            log_tail="Traceback\nValueError: x",
        )
    )
    return run


def _text(page: object) -> str:
    console = Console(width=200)
    with console.capture() as capture:
        console.print(page)
    return capture.get()


def test_the_page_of_a_run_has_every_fact() -> None:
    text = _text(pages.run(_run()))
    for fact in (
        *("r1", "digits [v2]", "failed", "digits:v0", "default", "high", "ada", "lr: 0.1", "gpus: 1"),
        *("team=vision", "on node-1, epoch 3", "queued 1.0 s, preparing 5.0 s, running 1 m 04 s"),
        *("image reused (aaaaaaaaaaaa)", "GPU-1", "exit code 1", "user error: exit code 1"),
        *("| ValueError: x", "towline run outputs r1"),
    ):
        assert fact in text, fact


def test_a_waiting_run_says_why_and_how_many_are_ahead() -> None:
    run = runs_pb2.Run(
        name="runs/r1",
        state=runs_pb2.RUN_STATE_QUEUED,
        state_detail="no agent has a free GPU",
        queue_position=3,
    )
    run.create_time.FromDatetime(START)
    assert "queued · no agent has a free GPU, 3 ahead" in pages.state_line(run)
    assert "no agent has a free GPU, 3 ahead" in _text(pages.run(run))


def test_how_many_are_ahead_is_said_once() -> None:
    run = runs_pb2.Run(state=runs_pb2.RUN_STATE_QUEUED, state_detail="3 runs ahead", queue_position=3)
    assert pages.waiting_line(run) == "queued · 3 runs ahead"


def test_an_end_shows_the_log_only_where_nobody_has_seen_it() -> None:
    run = _run()
    assert not any("ValueError" in line for line in pages.ending(run, logs_shown=True))
    assert any("ValueError" in line for line in pages.ending(run, logs_shown=False))
    run.failure.cause = runs_pb2.FAILURE_CAUSE_IMAGE_BUILD
    assert any("ValueError" in line for line in pages.ending(run, logs_shown=True))


def test_the_page_of_a_job_has_its_source_and_its_versions() -> None:
    version = jobs_pb2.JobVersion(
        name="jobs/digits/versions/v1",
        aliases=["latest"],
        spec=jobs_pb2.JobSpec(
            git=jobs_pb2.GitSource(remote="https://host/repo", commit="c" * 40),
            entrypoint=["python", "train.py"],
            python=jobs_pb2.PythonEnvironment(version="3.11.7", requirements=["numpy==2.0"]),
            config_json='{"lr": 0.1}',
        ),
    )
    version.create_time.FromDatetime(START)
    older = jobs_pb2.JobVersion(name="jobs/digits/versions/v0")
    text = _text(pages.job_version(version, [version, older]))
    for fact in (
        "digits:v1",
        "latest",
        "https://host/repo at cccc",
        "python train.py",
        "numpy==2.0",
        "digits:v0",
    ):
        assert fact in text, fact


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (59.94, "59.9 s"),
        (65, "1 m 05 s"),
        (3661, "1 h 01 m"),
        (90000, "1 d 01 h"),
        (-1, "0.0 s"),
    ],
)
def test_durations_are_written_in_two_units(seconds: float, text: str) -> None:
    assert words.duration(timedelta(seconds=seconds)) == text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (2**41, "2.0 TiB")]
)
def test_sizes(count: int, text: str) -> None:
    assert words.size(count) == text


def test_an_unknown_state_is_refused_with_those_there_are() -> None:
    assert enums.parse(runs_pb2.RunState, "RUN_STATE_", "Failed", "--state") == runs_pb2.RUN_STATE_FAILED
    with pytest.raises(InvalidArgument, match="queued, leased, preparing"):
        enums.parse(runs_pb2.RunState, "RUN_STATE_", "waiting", "--state")
