"""The program's end of a recording.

The work is done by `towline.capture.recorder` in a process of its own: it costs the program no time, goes
on when the program is killed, and shares no libraries with it. The two speak over a pipe: one line of JSON
at the start, one at the end; a pipe that closes without the second line says that the program was killed.
What else the program has to say lies in a folder, see `towline.runtime.spool`.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from towline.runtime.saying import say
from towline.runtime.spool import RECORD, Spool, write_init

__all__ = ["Recording", "record", "start"]

_RECORDER = "import sys; sys.path.append({!r}); from towline.capture.recorder import main; main()"


class Recording:
    """A recording that goes on."""

    def __init__(self, recorder: "subprocess.Popen[bytes]", spool: Spool) -> None:
        self._recorder = recorder
        self._spool = spool

    def end(self, failure: str | None) -> None:
        """Tell that the program ends, and wait until its job is made; see Run.finish.

        Args:
            failure: Name of the exception that ended the program, None if none did.
        """
        self._spool.leave()
        try:
            _tell(self._recorder, {"failure": failure}, last=True)
            status = self._recorder.wait()
        except KeyboardInterrupt:  # a second one, from a person who does not want to wait
            say("the recording goes on in the background")
        except OSError as error:  # it has said itself why it ended
            if self._recorder.wait():
                self._clean_up(str(error))
        else:
            if status < 0:
                self._clean_up(f"the recorder was killed by signal {-status}")

    def _clean_up(self, problem: str) -> None:
        """Remove what a recorder that was killed has left, unless its record was finished."""
        if (self._spool.path / RECORD).exists():
            say(f"recorded offline: {problem}. `towline sync` sends it")
        else:
            say(f"not recorded: {problem}")
            shutil.rmtree(self._spool.path, ignore_errors=True)


def start(
    init: Mapping[str, Any],
    *,
    refused: Sequence[str],
    excluded: Sequence[Path],
    lock: str | os.PathLike[str] | None,
    dockerfile: str | os.PathLike[str] | None,
    system_packages: Sequence[str] = (),
) -> Recording | None:
    """Start recording this program; None, and a line for people, where that cannot be.

    Args:
        init: What `towline.init` was given, see `towline.runtime.spool`.
        refused: Parameters that JSON does not hold.
        excluded: Folders that are no source, such as that of the outputs.
        lock: Path of the project's own lock; None: what is installed is recorded.
        dockerfile: Path of what the image is built with; None: Dockerfile.towline, if the project has one.
        system_packages: Packages of the distribution that containers need.
    """
    main = sys.modules.get("__main__")
    script = getattr(main, "__file__", None)
    if script is None:
        say("not recorded: there is no script in an interactive session; run a file with python")
        return None
    if script == "<stdin>":
        say("not recorded: there is no script: the program came on standard input; run a file with python")
        return None
    if refused:
        say(f"JSON cannot hold these parameters, so they are not recorded: {', '.join(refused)}")
    spec = getattr(main, "__spec__", None)
    try:
        program = {
            "script": None if spec else os.path.abspath(script),  # noqa: PTH100 - cannot fail on odd names
            "module": spec.name.removesuffix(".__main__") if spec else None,
            "arguments": sys.argv[1:],
            "command": sys.orig_argv,
            "launcher": _launcher(),
        }
        asked = {
            "program": program,
            "excluded": [str(path) for path in excluded],
            "lock": os.fspath(lock) if lock else "",
            "dockerfile": os.fspath(dockerfile) if dockerfile else "",
            "system_packages": list(system_packages),
        }
        spool = Spool()
        recording = record(asked, spool, init)
        os.environ.update(spool.variables)
        return recording
    except Exception as error:  # whatever it is, the program goes on
        say(f"not recorded: {type(error).__name__}: {error}")
        return None


def record(asked: Mapping[str, Any], spool: Spool, init: Mapping[str, Any] | None) -> Recording:
    """Start a recorder; where that fails, the spool is removed.

    Args:
        asked: What it records; see `towline.capture.recorder`.
        spool: Folder of the recording.
        init: What `towline.init` was given; None: a program below may still call it.

    Raises:
        OSError: There is no room for the recording, or no process can be started.
    """
    try:
        if init is not None:
            write_init(spool.path, init)
        recorder = subprocess.Popen(
            [sys.executable, "-P", "-c", _RECORDER.format(str(Path(__file__).parents[2]))],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C ends the program, not its recording
            pass_fds=(spool.lock,),
        )
        here = {
            "cwd": str(Path.cwd()),
            "paths": [path for path in sys.path if path],
            "spool": str(spool.path),
        }
        _tell(recorder, {**here, **asked})
    except BaseException:
        spool.leave()
        shutil.rmtree(spool.path, ignore_errors=True)
        raise
    return Recording(recorder, spool)


def _launcher() -> list[str] | None:
    """Give the command line of torch's launcher, where this is a worker of one: that is what to run again."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return None
    try:
        words = Path(f"/proc/{os.getppid()}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return None
    return [os.fsdecode(word) for word in words[:-1]]


def _tell(recorder: "subprocess.Popen[bytes]", message: Mapping[str, Any], *, last: bool = False) -> None:
    pipe = recorder.stdin
    if pipe is None:
        raise OSError("the recorder has no pipe")
    pipe.write(json.dumps(message).encode() + b"\n")
    pipe.flush()
    if last:
        pipe.close()
