"""Exit codes are what the table says, for every error there is."""

import subprocess
import sys

import pytest

from towline import errors
from towline.cli import exit_codes, failures
from towline.cli.exit_codes import ExitCode


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


def test_help_brings_neither_grpc_nor_rich() -> None:
    """What keeps `towline --help` quick."""
    code = (
        "import sys; from towline.cli.app import run; run(['--help']); "
        "print(sorted({'grpc', 'google.protobuf', 'rich', 'yaml', 'asyncio'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
