"""The program's end of a recording.

The work is done by `towline.capture.recorder` in a process of its own: it costs the program no time, goes
on when the program is killed, and shares no libraries with it. The two speak over a pipe: one line of JSON
at the start, one at the end; a pipe that closes without the second line says that the program was killed.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from towline.errors import TowlineError
from towline.runtime import environment
from towline.runtime.endpoints import Endpoints

__all__ = ["Recording", "start"]

_RECORDER = "import sys; sys.path.append({!r}); from towline.capture.recorder import main; main()"


class Recording:
    """A recording that goes on."""

    def __init__(self, recorder: "subprocess.Popen[bytes]") -> None:
        self._recorder = recorder

    def end(self, failure: str | None) -> None:
        """Tell that the program ends, and wait until its job is made; see Run.finish.

        Args:
            failure: Name of the exception that ended the program, None if none did.
        """
        try:
            _tell(self._recorder, {"failure": failure}, last=True)
            status = self._recorder.wait()
        except KeyboardInterrupt:
            self._recorder.kill()
            self._recorder.wait()
            say("not recorded: interrupted")
        except OSError as error:  # it has said itself why it ended
            self._recorder.wait()
            if self._recorder.returncode:
                say(f"not recorded: {error}")
        else:
            if status < 0:
                say(f"not recorded: the recorder was killed by signal {-status}")


def start(
    config: dict[str, Any], *, refused: Sequence[str], job: str | None, excluded: Sequence[Path]
) -> Recording | None:
    """Start recording this program; None, and a line for people, where that cannot be.

    Args:
        config: Default parameters, as JSON holds them.
        refused: Parameters that JSON does not hold.
        job: Name of the job; None: made from the script's name.
        excluded: Folders that are no source, such as that of the outputs.
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
        Endpoints.discover()
        folder = str(Path(__file__).parents[2])
        recorder = subprocess.Popen(
            [sys.executable, "-P", "-c", _RECORDER.format(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C ends the program, not its recording
        )
        program = {
            "script": None if spec else os.path.abspath(script),  # noqa: PTH100 - cannot fail on odd names
            "module": spec.name.removesuffix(".__main__") if spec else None,
            "arguments": sys.argv[1:],
            "command": sys.orig_argv,
            "cwd": str(Path.cwd()),
            "paths": [path for path in sys.path if path],
            "config_json": json.dumps(config, sort_keys=True, allow_nan=False),
            "job": job,
            "excluded": [str(path) for path in excluded],
        }
        _tell(recorder, program)
    except TowlineError as error:
        say(f"not recorded: {error.message} (with {environment.RECORD}=0 nothing is recorded, or said)")
        return None
    except Exception as error:  # whatever it is, the program goes on
        say(f"not recorded: {type(error).__name__}: {error}")
        return None
    return Recording(recorder)


def say(line: str) -> None:
    """Tell people one thing, in one line; where nobody listens, nothing happens."""
    try:
        print(f"towline: {' '.join(line.split())}", file=sys.stderr, flush=True)  # noqa: T201 - for people
    except (OSError, ValueError, AttributeError):  # stderr closed, or None
        return


def _tell(recorder: "subprocess.Popen[bytes]", message: dict[str, Any], *, last: bool = False) -> None:
    pipe = recorder.stdin
    if pipe is None:
        raise OSError("the recorder has no pipe")
    pipe.write(json.dumps(message).encode() + b"\n")
    pipe.flush()
    if last:
        pipe.close()
