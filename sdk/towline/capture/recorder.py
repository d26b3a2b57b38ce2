"""The process that records a program which called `towline.init`, or which `towline track` runs.

It reads two lines of JSON from standard input (see `towline.runtime.recording`): what the program is, and,
when that ends, how. What people should know goes to standard error, one line each. It ignores Ctrl-C and
lives in a session of its own, so that it outlives the program for the moment that the upload takes.
"""

import asyncio
import getpass
import json
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from towline import names
from towline.capture import environment, leavings, records
from towline.capture.dockerfiles import DockerfileWish
from towline.capture.entrypoint import Program, job_name, parse_command, script_or_command
from towline.capture.finishing import finish
from towline.capture.locks import LockFile
from towline.capture.parameters import parameterized
from towline.capture.record import Captured, capture_program, interpreter_path
from towline.capture.records import Record
from towline.capture.roots import root_of_running
from towline.capture.sending import Sent, may_work_later, send
from towline.errors import InvalidArgument, TowlineError, Unavailable
from towline.runtime.arguments import PREFIX
from towline.runtime.endpoints import Endpoints
from towline.runtime.environment import CACHE_DIR, RECORD
from towline.runtime.saying import say

__all__ = ["main"]

# A program must not wait at its end for a registry that has hung.
UPLOAD_WITHIN_S: Final = 600.0
_KNOCK_S: Final = 5.0
# With one of these grpc takes another way than a plain connection.
_PROXIES: Final = ("grpc_proxy", "https_proxy", "http_proxy")


def main() -> None:
    """Record one program; exits with 0 whatever becomes of it, after a line for people."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # `towline track` starts this one with most of them held
    asked = json.loads(sys.stdin.readline())
    spool = Path(asked["spool"])
    tempfile.tempdir = str(spool)
    # grpc is found where the program would find it; what it put before the standard library stays out.
    sys.path.extend(path for path in asked["paths"] if path not in sys.path)
    kept = False
    try:
        kept = _record(asked, spool)
    except TowlineError as error:
        say(f"not recorded: {error.message}")
    except Exception as error:
        say(f"not recorded: {type(error).__name__}: {error}")
    finally:
        if not kept:
            shutil.rmtree(spool, ignore_errors=True)


def _record(asked: Mapping[str, Any], spool: Path) -> bool:
    """Record, and tell whether the folder of the recording is a record that waits."""
    captured, config = _captured_command(asked) if "track" in asked else (_captured_program(asked), {})
    captured = captured.with_system_packages(asked.get("system_packages") or (), "system_packages")
    captured = captured.built_with(_dockerfile(asked))
    for warning in captured.warnings:
        say(warning)
    if saved := records.sweep():
        say(f"found {saved} finished records whose recorders were killed; `towline sync` sends them")
    last = sys.stdin.readline()
    failure = json.loads(last)["failure"] if last else "it was killed"
    left = leavings.read(spool)
    # What `towline track` was told goes over what the program says of itself.
    left = replace(
        left, job=asked.get("job") or left.job, config_files=asked.get("config_files") or left.config_files
    )
    record, problems = finish(captured, left, config)
    for problem in problems:
        say(problem)
    record = replace(record, author=_author(), failure=failure or "", recorded_at=time.time())
    record.write(spool)
    try:
        sent = asyncio.run(_send(spool, record))
    except Exception as error:
        if not may_work_later(error):
            raise
        _keep(spool, record, error)
        return True
    _tell(sent, failure)
    return False


def _captured_program(asked: Mapping[str, Any]) -> Captured:
    program = _program(asked["program"], Path(asked["cwd"]))
    return capture_program(
        program,
        root_of_running(program),
        lambda: environment.describe_own(asked["paths"]),
        config_json="{}",
        excluded=_excluded(asked),
        lock=LockFile(Path(asked["cwd"], asked["lock"])) if asked["lock"] else None,
    )


def _captured_command(asked: Mapping[str, Any]) -> tuple[Captured, dict[str, Any]]:
    """Capture a command, with placeholders for the parameters among its arguments, and give these."""
    cwd = Path(asked["cwd"])
    named, program = parse_command(asked["track"], cwd)
    interpreter = interpreter_path(named, cwd)
    told, config = parameterized(program)
    captured = capture_program(
        told,
        root_of_running(program),
        lambda: environment.ask(interpreter, cwd),
        config_json="{}",
        excluded=_excluded(asked),
    )
    entrypoint = captured.entrypoint
    if config:
        entrypoint = replace(entrypoint, command=(*PREFIX, *entrypoint.command))
    return replace(captured, job=job_name(program), entrypoint=entrypoint), config


def _dockerfile(asked: Mapping[str, Any]) -> DockerfileWish:
    file = Path(asked["cwd"], asked["dockerfile"]) if asked["dockerfile"] else None
    return DockerfileWish(file, asked.get("build_args") or {})


def _excluded(asked: Mapping[str, Any]) -> list[Path]:
    return [Path(folder) for folder in [*asked["excluded"], asked["spool"]]]


def _program(asked: Mapping[str, Any], cwd: Path) -> Program:
    if asked["launcher"]:
        try:
            return parse_command(asked["launcher"], cwd)[1]
        except InvalidArgument:  # it is something else that sets the same variables
            pass
    script = Path(asked["script"]) if asked["script"] else None
    program = script_or_command(
        Program(cwd, script=script, module=asked["module"], arguments=tuple(asked["arguments"]))
    )
    try:
        _, typed = parse_command(asked["command"], cwd)
    except InvalidArgument:  # such as a debugger's own: what it runs is known all the same
        return program
    same = (typed.script, typed.module) == (program.script, program.module)
    return typed if same and typed.arguments == program.arguments else program


async def _send(spool: Path, record: Record) -> Sent:
    endpoints = Endpoints.discover()
    _knock(endpoints.registry)
    os.environ[CACHE_DIR] = str(spool)  # what is noted of files that go away goes away with them
    from towline.client import AsyncClient  # noqa: PLC0415 - grpc is loaded at the end only

    async with asyncio.timeout(UPLOAD_WITHIN_S), AsyncClient(endpoints) as client:
        return await send(client, spool, record)


def _knock(address: str) -> None:
    """See whether anybody is there: a person who waits for the end of a program is not to wait for retries.

    Raises:
        Unavailable: Nobody is.
    """
    host, _, port = address.rpartition(":")
    if not port.isdecimal() or "/" in host or any(os.environ.get(name) for name in _PROXIES):
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_KNOCK_S).close()
    except OSError as error:
        raise Unavailable(
            f"the registry at {address} cannot be reached: {error.strerror or error}", reason="UNREACHABLE"
        ) from None


def _tell(sent: Sent, failure: str | None) -> None:
    for line in (*sent.problems, *sent.notes):
        say(line)
    version = names.short(sent.response.job_version.name)
    word = "recorded" if sent.response.created else "unchanged"
    how = f", though the program failed ({failure})" if failure else ""
    logged = f"; logged {', '.join(map(names.short, sent.artifacts))}" if sent.artifacts else ""
    say(f"{word} {version}{how} (submit it: towline submit {version.partition(':')[0]}){logged}")


def _keep(spool: Path, record: Record, error: Exception) -> None:
    why, hint = f"{type(error).__name__}: {error}", ""
    if isinstance(error, TimeoutError):
        why = f"the upload took longer than {UPLOAD_WITHIN_S:.0f} s"
    elif isinstance(error, TowlineError):
        why = error.message
        hint = f"; with {RECORD}=0 nothing is recorded, or said" if error.reason == "NO_ENDPOINTS" else ""
    place = records.keep(spool, record)
    where = f" from {place}, as {records.offline_dir()} takes nothing" if place == spool else ""
    waiting = len(records.kept())
    say(f"recorded offline: {why}. `towline sync` sends it{where} ({waiting} waiting{hint})")


def _author() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a uid without a name
        return ""
