"""Exit codes are what the table says, for every error there is."""

import subprocess
import sys
from pathlib import Path

import pytest

from towline import errors
from towline.cli import exit_codes, failures
from towline.cli.app import run
from towline.cli.exit_codes import ExitCode
from towline_testing.command import COMMAND


@pytest.mark.parametrize("cls", errors.TowlineError.__subclasses__())
def test_every_error_has_a_code_that_is_not_success(cls: type[errors.TowlineError]) -> None:
    assert exit_codes.of(cls("message", reason="REASON")) not in (ExitCode.OK, ExitCode.RUN_NOT_SUCCEEDED)


def test_the_table_names_every_code() -> None:
    assert set(exit_codes.MEANING) == set(ExitCode)
    for code in ExitCode:
        assert f"{code.value:>3}  " in exit_codes.table()


def test_all_violations_are_shown_one_a_line() -> None:
    error = errors.InvalidArgument(
        "config.lr: must be a number; config.depth: is unknown; and 3 more",
        reason="INVALID_CONFIG",
        metadata={"config.depth": "is unknown", "config.lr": "must be a number"},
    )
    assert failures.as_text(error).splitlines() == [
        "the parameters do not fit the job:",
        "  config.lr: must be a number",
        "  config.depth: is unknown",
        "  and 3 more",
    ]


def test_other_errors_are_their_message() -> None:
    error = errors.NotFound("no queue 'gpu'", reason="QUEUE_NOT_FOUND", metadata={"queue": "gpu"})
    assert failures.as_text(error) == "no queue 'gpu'"


@pytest.mark.parametrize(
    ("message", "typed"),
    [
        ("job: there is no jobs/train; record it first", "there is no job 'train'; record it first"),
        ("jobs/a has no version or alias 'v9'; …", "job 'a' has no version or alias 'v9'; …"),
        ("run.queue: queues/nope does not exist; …", "queue 'nope' does not exist; …"),
        ("runs[3].queue: queues/nope does not exist", "runs[3].queue: queue 'nope' does not exist"),
        ("runs/r1 has not ended.", "run 'r1' has not ended."),
        ("jobs/a/versions/v0 is old", "job 'a:v0' is old"),
        (
            "run: 'runs/A b' is not the name of a run; write runs/{run} (as the service gave it)",
            "run: 'A b' is not the name of a run (as the service gave it)",
        ),
        (
            "job: 'jobs/a b/versions/c' is not the name of a job version; "
            "write jobs/{job}/versions/{version or alias} (letters, digits, '_', '.', '-', at most 128 each)",
            "job: 'a b:c' is not the name of a job version "
            "(letters, digits, '_', '.', '-', at most 128 each)",
        ),
        ("/srv/runs/a: No such file", "/srv/runs/a: No such file"),
    ],
)
def test_names_are_written_as_people_type_them(message: str, typed: str) -> None:
    assert failures.as_text(errors.NotFound(message, reason="RUN_NOT_FOUND")) == typed


def test_files_that_look_like_names_are_left_alone() -> None:
    error = errors.InvalidArgument.field("--config jobs/a.yaml", "cannot be read (No such file)")
    assert failures.as_text(error) == error.message
    wrong = errors.InvalidArgument.field("queue", "'queues/A' is not the name of a queue")
    assert failures.as_text(wrong) == "queue: 'A' is not the name of a queue"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("submit", "a", "--priority", ""), "--priority"),
        (("submit", "a", "--name", ""), "--name"),
        (("up", "--data-dir", ""), "--data-dir"),
        (("agent", "start", "--name", ""), "--name"),
        (("launch", "--job", "", "--", "python", "a.py"), "--job"),
        (("run", "cancel", "--queue", ""), "--queue"),
        (("submit", "a", "--count", "10001"), "--count: 10,001 is more than 10,000"),
        (("run", "list", "-n", "10001"), "--limit: 10,001 is more than 10,000"),
        (("run", "cancel"), "RUN: name runs"),
        (("run", "cancel", "r1", "--all"), "not both"),
    ],
)
def test_a_command_line_that_is_refused_before_anything_is_asked(
    arguments: tuple[str, ...], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == ExitCode.BAD_INPUT
    assert named in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [("--help",), ("--version",), ("run", "list", "--help")])
def test_output_that_cannot_be_written_is_one_line(arguments: tuple[str, ...]) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [*COMMAND, *arguments], stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=60
        )
    assert done.returncode == ExitCode.INTERNAL
    assert done.stderr == "error: standard output: No space left on device\n"


def test_without_its_packages_the_command_names_them() -> None:
    code = (
        "from importlib import util; there = util.find_spec; "
        "util.find_spec = lambda name: None if name == 'typer' else there(name); "
        "import towline.cli; towline.cli.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == ExitCode.BAD_INPUT
    assert done.stderr.splitlines() == [
        "error: the command needs packages of its own: pip install 'towline[cli]'"
    ]


def test_help_brings_neither_grpc_nor_rich() -> None:
    """What keeps `towline --help` quick."""
    code = (
        "import sys; from towline.cli.app import run; run(['--help']); "
        "print(sorted({'grpc', 'google.protobuf', 'rich', 'yaml', 'asyncio'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
