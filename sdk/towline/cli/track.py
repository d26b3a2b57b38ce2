"""`towline track`: run a program as it is, and make a job of it when it ends.

    towline track [--name JOB] [--config-file FILE] -- python train.py --lr 0.1

Imports nothing but the standard library, so that the program starts at once.
"""

import os
import signal
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn

from towline import names
from towline.errors import InvalidArgument
from towline.runtime import environment
from towline.runtime.saying import say
from towline.runtime.spool import Spool

if TYPE_CHECKING:
    from towline.runtime.recording import Recording

__all__ = ["Options", "quick", "run"]

# What a shell or a supervisor sends to the process it has started, which is this one, is passed on. From a
# terminal the first three come to the program too. SIGTSTP and its like stop both: shells look for that.
_PASSED_ON: Final = (
    *(signal.SIGINT, signal.SIGQUIT, signal.SIGHUP),
    *(signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM),
)
_WATCHED: Final = (signal.SIGCHLD, *_PASSED_ON)
_FROM_KERNEL: Final = 0x80  # SI_KERNEL, as a terminal's


class Options(NamedTuple):
    """What people may say about the recording."""

    job: str = ""
    """Empty: named after the program."""
    config_files: Sequence[str] = ()
    """FILE or NAME=FILE each: files of the source tree whose content becomes the parameter of that name."""
    dockerfile: str = ""
    """What the image is built with; empty: the project's Dockerfile.towline, if it has one."""
    build_args: Sequence[str] = ()
    """Of the Dockerfile, NAME=VALUE each."""
    system_packages: Sequence[str] = ()
    """Debian packages that containers need."""


def quick(words: Sequence[str]) -> int | None:
    """Run `towline track` for its arguments where they are plain; None: they are for the parser to judge.

    Raises:
        InvalidArgument: See `run`.
    """
    job, dockerfile, at = "", "", 0
    files: list[str] = []
    build_args: list[str] = []
    packages: list[str] = []
    while at < len(words) and words[at].startswith("-") and words[at] != "--":
        name, equals, value = words[at].partition("=")
        if not equals and at + 1 < len(words):
            at += 1
            value = words[at]
        if name == "--name":
            job = value
        elif name in ("--config-file", "--config"):
            files.append(value)
        elif name == "--dockerfile":
            dockerfile = value
        elif name == "--build-arg":
            build_args.append(value)
        elif name == "--system-package":
            packages.append(value)
        else:
            return None
        at += 1
    command = words[at + 1 :] if words[at : at + 1] == ["--"] else words[at:]
    return run(command, Options(job, files, dockerfile, build_args, packages)) if command else None


def run(command: Sequence[str], options: Options) -> int:
    """Run a command with its standard streams, signals and exit code untouched; return the exit code.

    A command that was ended by a signal ends this process by the same one. What goes wrong with the recording
    is told in one line.

    Raises:
        InvalidArgument: There is no command, the job's name or a system package is none, or a file or a build
            argument is named twice.
    """
    if not command:
        raise InvalidArgument.field("command", "there is none; write towline track -- python SCRIPT …")
    if options.job:
        names.job(f"jobs/{options.job.removeprefix('jobs/')}", "--name")
    files = _files(options.config_files)
    arguments = _build_args(options.build_args)
    if options.system_packages:
        from towline.requests.system import checked

        checked(options.system_packages, "--system-package")
    if os.environ.get(environment.CONFIG) or environment.why_not_recorded(None):
        _become(command)  # in a container, or below another recording, there is nothing to do
    spool = _spool()
    signal.signal(signal.SIGCHLD, lambda *_: None)  # else some systems drop it although it is waited for
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
    try:
        child = _start(command, spool.variables if spool else {}, before)
        # The program comes first: it is not to wait for its recorder.
        asked = {"track": list(command), "job": options.job, "config_files": files}
        built = {"dockerfile": options.dockerfile, "build_args": arguments}
        recording = _recording(spool, {**asked, **built, "system_packages": list(options.system_packages)})
        status = _attend(child)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    if recording:
        recording.end(_failure(status))
    if status < 0:
        _end_likewise(-status)
    return status


def _files(named: Sequence[str]) -> dict[str, str]:
    files: dict[str, str] = {}
    for word in named:
        key, equals, file = word.partition("=")
        key, file = (key, file) if equals else (Path(word).stem, word)
        if not key or not file or key in files:
            raise InvalidArgument.field("--config-file", f"{word!r}: write FILE or NAME=FILE, each name once")
        files[key] = os.path.abspath(file)  # noqa: PTH100 - links are kept as people wrote them
    return files


def _build_args(given: Sequence[str]) -> dict[str, str]:
    arguments: dict[str, str] = {}
    for word in given:
        name, equals, value = word.partition("=")
        if not name or not equals or name in arguments:
            raise InvalidArgument.field("--build-arg", f"{word!r}: write NAME=VALUE, each name once")
        arguments[name] = value
    return arguments


def _spool() -> Spool | None:
    try:
        return Spool()
    except OSError as error:  # the program runs all the same
        say(f"not recorded: {error}")
        return None


def _recording(spool: Spool | None, asked: Mapping[str, Any]) -> "Recording | None":
    from towline.runtime.recording import record  # the program has started: now there is time

    try:
        return record({"excluded": [], **asked}, spool, None) if spool else None
    except Exception as error:  # whatever it is, the program runs
        say(f"not recorded: {type(error).__name__}: {error}")
        return None


def _start(command: Sequence[str], variables: Mapping[str, str], mask: Iterable[int]) -> int:
    """Start a command with variables added to its environment and a signal mask, and give its process."""
    child = os.fork()
    if child == 0:
        os.environ.update(variables)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        _become(command)
    return child


def _attend(child: int) -> int:
    """Pass signals on until a process ends; return its exit code, or the signal that ended it, negative."""
    while True:
        number, from_terminal = _next_signal()
        if number == signal.SIGCHLD:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                return os.waitstatus_to_exitcode(status)
        elif not from_terminal:
            with suppress(PermissionError):  # it has become somebody else
                os.kill(child, number)


def _next_signal() -> tuple[int, bool]:
    """Wait for a signal; tell whether it came from a terminal, which sends it to the program itself too."""
    if hasattr(signal, "sigwaitinfo"):
        came = signal.sigwaitinfo(_WATCHED)
        return came.si_signo, came.si_code == _FROM_KERNEL
    number = signal.sigwait(_WATCHED)  # a system that does not tell: who types is more likely than who kills
    return number, number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)


def _become(command: Sequence[str]) -> NoReturn:
    """Become the command, as a shell would."""
    # Python ignores these two, and what it starts would, too.
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvp(command[0], list(command))  # noqa: S606 - the whole purpose; no shell takes part
    except OSError as error:
        sys.stderr.write(f"{command[0]}: {error.strerror}\n")
        sys.stderr.flush()
        os._exit(126 if isinstance(error, PermissionError) else 127)


def _failure(status: int) -> str | None:
    if status < 0:
        return signal.Signals(-status).name
    return f"exit code {status}" if status else None


def _end_likewise(number: int) -> None:
    """End as the program did, without a core of its own."""
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
