"""The process that records a program which called `towline.init`.

It reads two lines of JSON from standard input (see `towline.runtime.recording`): what the program is, and,
when that ends, how. What people should know goes to standard error, one line each. It ignores Ctrl-C and
lives in a session of its own, so that it outlives the program for the moment that the upload takes.
"""

import asyncio
import getpass
import json
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from towline import names
from towline.capture import environment
from towline.capture.entrypoint import Program, parse_command
from towline.capture.record import Captured, capture_program, create_job
from towline.capture.roots import root_of_running
from towline.errors import InvalidArgument, TowlineError
from towline.runtime.endpoints import Endpoints
from towline.runtime.recording import say

__all__ = ["main"]

# A program must not wait at its end for a registry that has hung.
UPLOAD_WITHIN_S: Final = 600.0


def main() -> None:
    """Record one program; exits with 0 whatever becomes of it, after a line for people."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        _record(json.loads(sys.stdin.readline()))
    except TowlineError as error:
        say(f"not recorded: {error.message}")
    except TimeoutError:
        say(f"not recorded: the upload took longer than {UPLOAD_WITHIN_S:.0f} s")
    except Exception as error:
        say(f"not recorded: {type(error).__name__}: {error}")


def _record(asked: Mapping[str, Any]) -> None:
    job = asked["job"] and names.job(f"jobs/{asked['job'].removeprefix('jobs/')}")
    program = _program(asked)
    excluded = [Path(folder) for folder in asked["excluded"]]
    # grpc is found where the program would find it; what it put before the standard library stays out.
    sys.path.extend(path for path in asked["paths"] if path not in sys.path)
    with capture_program(
        program,
        root_of_running(program),
        lambda: environment.describe_own(asked["paths"]),
        config_json=asked["config_json"],
        excluded=excluded,
    ) as captured:
        for warning in captured.warnings:
            say(warning)
        last = sys.stdin.readline()
        failure = json.loads(last)["failure"] if last else "it was killed"
        say(asyncio.run(_create(captured, job, failure)))


def _program(asked: Mapping[str, Any]) -> Program:
    cwd = Path(asked["cwd"])
    script = Path(asked["script"]) if asked["script"] else None
    program = Program(cwd, script=script, module=asked["module"], arguments=tuple(asked["arguments"]))
    try:
        _, typed = parse_command(asked["command"], cwd)
    except InvalidArgument:  # such as a debugger's own: what it runs is known all the same
        return program
    same = (typed.script, typed.module) == (program.script, program.module)
    return typed if same and typed.arguments == program.arguments else program


async def _create(captured: Captured, job: str | None, failure: str | None) -> str:
    from towline.client import AsyncClient  # noqa: PLC0415 - grpc is loaded at the end only

    async with asyncio.timeout(UPLOAD_WITHIN_S), AsyncClient(Endpoints.discover()) as client:
        response = await create_job(client, captured, job=job, author=_author())
    version = names.short(response.job_version.name)
    word = "recorded" if response.created else "unchanged"
    how = f", though the program failed ({failure})" if failure else ""
    return f"{word} {version}{how} (submit it: towline submit {version.partition(':')[0]})"


def _author() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a uid without a name
        return ""
