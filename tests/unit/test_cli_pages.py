"""What people read about a run says all that the run says."""

from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console

from towline.cli import enums, following, pages, run_tables, words
from towline.cli.selection import Selection
from towline.errors import InvalidArgument
from towline.v1 import fleet_pb2, jobs_pb2, runs_pb2

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


def test_what_a_run_read_and_what_came_of_it_is_shown() -> None:
    run = _run()
    run.inputs.add(name="data", artifact="artifacts/mnist/versions/v3")
    run.summary_json = '{"acc": 0.931, "per class": {"a": 1}}'
    run.logged_artifacts.append("artifacts/model/versions/v0")
    text = _text(pages.run(run))
    for fact in ("data: mnist:v3", "acc: 0.931", "per class", "model:v0"):
        assert fact in text, fact


def test_results_of_runs_are_columns_of_their_table() -> None:
    run, other = _run(), _run()
    run.summary_json = (
        '{"acc": 0.93123456789, "loss": {"val": [1, 2], "x.y": "low"}, "a.b": true, "[x]": null}'
    )
    names = run_tables.result_names("acc, loss.val,loss.x.y,a.b,none,[x],acc")
    assert names == ["acc", "loss.val", "loss.x.y", "a.b", "none", "[x]"]
    headers, rows = run_tables.table([run, other], names, START)
    assert list(headers[6:]) == ["acc", "loss.val", "loss.x.y", "a.b", "none", r"\[x]"]
    assert [[str(cell) for cell in row[6:]] for row in rows] == [
        ["0.931235", "[1, 2]", "low", "true", "", ""],
        ["", "", "", "", "", ""],
    ]
    first, second = run_tables.documents([run, other], names)
    assert first["summary"]["loss.val"] == [1, 2] and first["name"] == run.name
    assert second["summary"] == dict.fromkeys(names)
    assert "summary" not in run_tables.documents([run], [])[0]
    with pytest.raises(InvalidArgument, match="empty name"):
        run_tables.result_names("acc,,loss")


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


def _retried() -> runs_pb2.Run:
    """A run that failed once, lost its node, and waits for its second retry."""
    run = _run()
    run.ClearField("end_time")
    run.ClearField("failure")
    run.ClearField("outputs")
    run.state = runs_pb2.RUN_STATE_SCHEDULED
    run.state_detail = "scheduled until 2026-01-02 03:20:00 UTC"
    run.due_time.FromDatetime(datetime.now(UTC) + timedelta(seconds=90.5))
    first = run.attempts[0]
    first.failure.CopyFrom(runs_pb2.Failure(cause=runs_pb2.FAILURE_CAUSE_USER_ERROR, message="exit code 1"))
    first.outputs = "artifacts/run-r1/versions/v0"
    lost = run.attempts.add(epoch=5, agent="agents/node-2", outcome=runs_pb2.ATTEMPT_OUTCOME_LOST)
    lost.failure.cause = runs_pb2.FAILURE_CAUSE_NODE_LOST
    third = run.attempts.add()
    third.CopyFrom(first)
    third.epoch, third.outputs = 8, "artifacts/run-r1/versions/v1"
    run.limits.max_runtime.FromSeconds(7200)
    run.limits.max_wait.FromSeconds(1800)
    for cause, most in (("USER_ERROR", 3), ("OOM", 0), ("NODE_LOST", 10)):
        run.retry_policy.budgets.add(
            cause=runs_pb2.FailureCause.Value(f"FAILURE_CAUSE_{cause}"), max_retries=most
        )
    return run


def test_a_retry_tells_when_and_after_what_and_every_attempt_is_listed() -> None:
    run = _retried()
    text = _text(pages.run(run))
    due = words.moment(run.due_time)
    assert f"scheduled · until {due}, in 1 m 30 s, to be tried again after: user error" in text
    assert "2026-01-02T03:20" not in text
    rows = [line.split() for line in text.splitlines()]
    started = words.moment(run.attempts[0].times.lease_time).split()
    for row in (
        ["attempts", "EPOCH", "OUTCOME", "CAUSE", "AGENT", "LEASED", "RAN", "OUTPUTS"],
        ["3", "failed", "user", "error", "node-1", *started, "1", "m", "04", "s", "run-r1:v0"],
        ["8", "failed", "user", "error", "node-1", *started, "1", "m", "04", "s", "run-r1:v1"],
    ):
        assert row in rows, text
    assert any(row[:5] == ["5", "lost", "node", "lost", "node-2"] for row in rows)
    for fact in (
        "runs 2h at most, waits 30m at most",
        "user error 2 of 3, node lost 1 of 10",
        "last attempt  failed, on node-1, epoch 8",
        "user error: exit code 1",
        "outputs run-r1:v1 (towline run outputs r1 --epoch 8 --to DIR)",
    ):
        assert fact in text, fact


def test_the_last_failure_of_a_run_that_has_ended_was_no_retry() -> None:
    run = _retried()
    run.state = runs_pb2.RUN_STATE_FAILED
    run.end_time.FromDatetime(START)
    assert words.retries(run) == "user error 1 of 3, node lost 1 of 10"
    del run.attempts[:]
    assert words.retries(run) == "user error 0 of 3, node lost 0 of 10"


def test_a_run_scheduled_for_later_has_nothing_to_try_again() -> None:
    run = runs_pb2.Run(state=runs_pb2.RUN_STATE_SCHEDULED)
    run.due_time.FromDatetime(datetime.now(UTC) + timedelta(hours=2, seconds=1))
    assert pages.waiting_line(run) == f"scheduled · until {words.moment(run.due_time)}, in 2 h 00 m"


def test_unreachable_is_a_state_of_its_own_that_says_since_when() -> None:
    run = _run()
    run.ClearField("end_time")
    run.ClearField("failure")
    run.attempts[0].ClearField("outcome")
    run.state, run.unreachable = runs_pb2.RUN_STATE_RUNNING, True
    agent = fleet_pb2.Agent(name="agents/node-1")
    agent.last_seen_time.FromDatetime(START)
    assert words.state(run) == "unreachable"
    assert "unreachable · was running on node-1, which is silent" in pages.state_line(run)
    text = _text(pages.run(run, agent))
    assert f"since {words.moment(agent.last_seen_time)}, " in text
    assert "the run goes to another agent when its queue's lost_after is over" in text
    run.cancel_requested = True
    assert words.state(run) == "unreachable, cancel asked"
    assert "the run is cancelled when its queue's lost_after is over" in _text(pages.run(run, agent))


@pytest.mark.parametrize(
    ("cancel", "preempt", "text"),
    [
        (False, True, "running, preempting"),
        (True, True, "running, cancel asked"),
        (False, False, "running"),
    ],
)
def test_what_was_asked_of_a_run_is_shown_with_its_state(cancel: bool, preempt: bool, text: str) -> None:
    run = runs_pb2.Run(state=runs_pb2.RUN_STATE_RUNNING, cancel_requested=cancel, preempt_requested=preempt)
    assert words.state(run) == text
    run.end_time.FromDatetime(START)
    assert words.state(run) == "running"


def test_an_agent_that_drains_tells_its_deadline() -> None:
    agent = fleet_pb2.Agent(name="agents/node-1", state=fleet_pb2.AGENT_STATE_DRAINING, runs=["runs/a"])
    assert pages.draining(agent) == "node-1 drains; it leaves after 1 run"
    agent.drain_deadline.FromDatetime(START)
    moment = words.moment(agent.drain_deadline)
    assert pages.draining(agent).endswith(f"1 run, and preempts those left at {moment}")
    assert f"runs left at {moment} are preempted" in _text(pages.agent(agent))


def test_an_agent_that_takes_no_runs_tells_why() -> None:
    agent = fleet_pb2.Agent(name="agents/node-1", state=fleet_pb2.AGENT_STATE_CONNECTED)
    assert "takes no runs" not in _text(pages.agent(agent))
    agent.withheld = "its disk is full"
    assert "because its disk is full" in _text(pages.agent(agent))


def test_a_drain_of_an_agent_that_is_away_promises_nothing_else() -> None:
    agent = fleet_pb2.Agent(name="agents/node-1", state=fleet_pb2.AGENT_STATE_DISCONNECTED)
    assert pages.draining(agent) == (
        "node-1 is not connected; it drains when it is back, unless it was started anew"
    )


def test_unreachable_selects_runs_by_what_the_service_cannot_filter() -> None:
    held = runs_pb2.Run(state=runs_pb2.RUN_STATE_RUNNING)
    silent = runs_pb2.Run(state=runs_pb2.RUN_STATE_RUNNING, unreachable=True)
    failed = runs_pb2.Run(state=runs_pb2.RUN_STATE_FAILED)
    both = Selection(states=("unreachable", "Failed"))
    assert set(both.filter().states) == {
        runs_pb2.RUN_STATE_FAILED,
        runs_pb2.RUN_STATE_LEASED,
        runs_pb2.RUN_STATE_PREPARING,
        runs_pb2.RUN_STATE_RUNNING,
        runs_pb2.RUN_STATE_STOPPING,
    }
    assert [both.has(run) for run in (held, silent, failed)] == [False, True, True]
    assert all(Selection().has(run) for run in (held, silent, failed))
    assert Selection(states=("running",)).has(held)


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


def test_a_version_shows_what_its_source_was_made_of():
    version = jobs_pb2.JobVersion(name="jobs/digits/versions/v0")
    version.spec.git.CopyFrom(
        jobs_pb2.GitSource(remote="https://host/repo", commit="c" * 40, patch_digest=f"sha256:{'d' * 64}")
    )
    assert f"git https://host/repo at {'c' * 40}, with patch sha256:{'d' * 64}" in _text(
        pages.job_version(version, [version])
    )
    version.spec.image.CopyFrom(jobs_pb2.ImageSource(reference="x@sha256:1", requested="x:latest"))
    assert "image x@sha256:1 (which was x:latest)" in _text(pages.job_version(version, [version]))


def _image(**fields: object) -> runs_pb2.AttemptImage:
    image = runs_pb2.AttemptImage(size_bytes=3 * 2**28, **fields)
    image.duration.FromTimedelta(timedelta(seconds=12.34))
    return image


def test_the_page_says_how_the_image_came_about_and_where_each_second_went() -> None:
    run = _run()
    attempt = run.attempts[0]
    attempt.image_outcome = runs_pb2.IMAGE_OUTCOME_BUILT
    attempt.times.image_time.FromDatetime(START + timedelta(seconds=5))
    attempt.times.first_output_time.FromDatetime(START + timedelta(seconds=8))
    fetched = runs_pb2.ImageStep(name="fetch packages", pieces=12, transferred_bytes=5 * 2**20)
    fetched.duration.FromTimedelta(timedelta(seconds=65))
    installed = runs_pb2.ImageStep(name="install packages", pieces=1200, cached_pieces=1188)
    attempt.image.CopyFrom(_image(steps=[fetched, installed]))
    text = _text(pages.run(run))
    assert "queued 1.0 s, image 4.0 s, starting 1.0 s, first output after 2.0 s, running 1 m 04 s" in text
    assert "image built (aaaaaaaaaaaa), 768.0 MiB, in 12.3 s" in text
    assert "1 m 05 s  fetch packages: 12, 5.0 MiB" in text
    assert "0.0 s  install packages: 1,200, 1,188 of them cached" in text


def test_the_page_says_who_built_what_was_pulled_and_what_was_done_for_no_image() -> None:
    run = _run()
    attempt = run.attempts[0]
    attempt.image_outcome = runs_pb2.IMAGE_OUTCOME_PULLED
    pulled = runs_pb2.ImageStep(name="pull images.example/t@sha256:1", pieces=7, builder="agents/node-2")
    attempt.image.CopyFrom(_image(steps=[pulled]))
    text = _text(pages.run(run))
    assert "image pulled (aaaaaaaaaaaa), built by node-2, 768.0 MiB, in 12.3 s" in text
    assert "pull images.example/t@sha256:1: 7, built by node-2" in text
    attempt.image_outcome, attempt.image_id = runs_pb2.IMAGE_OUTCOME_UNSPECIFIED, ""
    assert "no image after 12.3 s" in _text(pages.run(run))


def test_what_is_done_for_an_image_is_followed_line_by_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    moment = 100.0
    monkeypatch.setattr(following.time, "monotonic", lambda: moment)
    screen = following._Plain()
    run = runs_pb2.Run(name="runs/r1", state=runs_pb2.RUN_STATE_PREPARING, queue_position=-1)
    for after, detail in (
        (0.0, "getting the image"),
        (0.5, "pulling a/b:1: 1 of 7 layers"),
        (1.0, "pulling a/b:1: 2 of 7 layers"),
        (9.0, "pulling a/b:1: 3 of 7 layers"),
        (11.0, "pulling a/b:1: 4 of 7 layers"),
    ):
        moment, run.state_detail = 100.0 + after, detail
        screen.changed(run)
    said = [line.split(" ", 1)[1] for line in capsys.readouterr().err.splitlines()]
    assert said == [
        "preparing · getting the image",
        "preparing · pulling a/b:1: 1 of 7 layers",
        "preparing · pulling a/b:1: 4 of 7 layers",
    ]
