"""A run as its program sees it."""

import atexit
import json
import os
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from towline.errors import FailedPrecondition
from towline.runtime import environment
from towline.runtime.config import Config, Plain, merged, plain

if TYPE_CHECKING:
    from towline.runtime.recording import Recording

__all__ = ["Run", "init"]


class Run:
    """One run: its parameters and where its outputs go. Made by `towline.init`."""

    def __init__(
        self, config: Config, outputs: Path, name: str, recording: "Recording | None", given: Plain
    ) -> None:
        self.config = config
        """The parameters: those of the submission in a container, else those given to `init`."""
        self.name = name
        """What people call it; empty where nobody said."""
        self._outputs = outputs
        self._recording = recording
        self._given = given
        self._pid = os.getpid()
        self._finished = False

    @property
    def outputs(self) -> Path:
        """The folder whose content is kept as the run's outputs; made when first asked for."""
        self._outputs.mkdir(parents=True, exist_ok=True)
        return self._outputs

    @property
    def recorded(self) -> bool:
        """Whether a job will be made of this run."""
        return self._recording is not None

    @property
    def attempt(self) -> int:
        """Which execution of the run this is: 1 for the first, and outside of containers."""
        return environment.number(environment.ATTEMPT, 1)

    @property
    def epoch(self) -> int:
        """The attempt's fencing token: higher than that of each attempt before it; 0 outside of containers.

        Whatever both could write to, such as a shared folder, should refuse the lower one.
        """
        return environment.number(environment.EPOCH, 0)

    def finish(self) -> None:
        """Make the job of what was recorded, and wait until it is there; a second call does nothing.

        Called by itself when the program ends, also when it fails. It never raises and never prints more
        than a line. In a forked child it does nothing: the run is its parent's.
        """
        self._finish(failure=None)

    def _finish(self, failure: str | None) -> None:
        if self._finished or os.getpid() != self._pid:
            return
        self._finished = True
        atexit.unregister(self._at_exit)
        if self._recording is not None:
            self._recording.end(failure)
        if os.environ.get(environment.RECORDING) == str(os.getpid()):
            os.environ.pop(environment.RECORDING)
            os.environ.pop(environment.OUTPUTS, None)

    def _at_exit(self) -> None:
        error = getattr(sys, "last_value", None)  # what the interpreter has just printed, if it did
        self._finish(type(error).__name__ if error is not None else None)

    def __enter__(self) -> "Run":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        failed = kind is not None and not issubclass(kind, SystemExit)
        self._finish(kind.__name__ if failed and kind is not None else None)

    def __repr__(self) -> str:
        return f"Run(name={self.name!r}, outputs={str(self._outputs)!r}, recorded={self.recorded})"


_current: Run | None = None


def init(
    config: object = None,
    *,
    job: str | None = None,
    name: str | None = None,
    record: bool | None = None,
) -> Run:
    """Start the run of this program; returns within milliseconds.

    In a container that an agent started, the run's parameters are put over `config`, key by key. Elsewhere
    the run is recorded: a process beside this one takes a snapshot of the source as it is now, and makes a
    version of the job when the program ends, however it ends. Nothing that goes wrong with it breaks the
    program; one line on standard error, beginning with "towline:", tells of it. Parameters that JSON cannot
    hold (functions, what holds itself, what raises an exception when it is read) are not recorded, but
    stay in `run.config`; a `config` that cannot be read at all counts as none, and the run is not recorded.

    Not recorded are: interactive sessions; processes started by a program that is recorded (worker
    processes, for example); ranks above 0 (RANK, SLURM_PROCID, OMPI_COMM_WORLD_RANK, PMI_RANK); and
    anything with `record=False` or TOWLINE_RECORD=0.

    A second call gives the same run; once a run was finished (end of `with`, `finish()`), it starts another.

    Args:
        config: Default parameters: a dict, dataclass, argparse.Namespace or pydantic model. `run.config` has
            them as JSON does: tuples as lists, paths as text.
        job: Name of the job; made from the script's name and folder where none is given.
        name: What people call this run; not used in containers, where the submission named it.
        record: False records nothing.

    Raises:
        FailedPrecondition: The run has started with another config (reason RUN_STARTED), or the container's
            parameters cannot be read (reason CONFIG_UNREADABLE).
    """
    global _current  # noqa: PLW0603 - a process has one run
    given, problem = _plain(config)
    if _current is not None and not _current._finished:
        return _same(_current, given) if config is not None else _current
    in_container = bool(os.environ.get(environment.CONFIG))
    parameters = merged(given.values, _container_parameters()) if in_container else given.values
    outputs, base = _outputs(name)
    recording = None
    records = not in_container and environment.why_not_recorded(record) is None
    if problem or records:
        from towline.runtime.recording import say, start  # noqa: PLC0415 - slow to import, not for containers

        if problem:
            say(f"not recorded: {problem}" if records else problem)
        else:
            os.environ[environment.RECORDING] = str(os.getpid())
            os.environ[environment.OUTPUTS] = str(outputs)
            recording = start(given.values, refused=given.refused, job=job, excluded=[base, outputs])
    title = os.environ.get("TOWLINE_RUN_NAME", "") if in_container else name or ""
    _current = Run(Config(merged(given.rest, parameters)), outputs, title, recording, given)
    atexit.register(_current._at_exit)
    return _current


def _plain(config: object) -> tuple[Plain, str]:
    """Read a config; where it cannot be read, none, and what is wrong with it."""
    try:
        return plain({} if config is None else config), ""
    except Exception as error:  # TypeError, or whatever the config's own code raises
        problem = (
            str(error) if isinstance(error, TypeError) else f"config raised {type(error).__name__}: {error}"
        )
        return Plain({}, {}, []), problem


def _same(run: Run, given: Plain) -> Run:
    if (given.values, given.refused) != (run._given.values, run._given.refused):
        raise FailedPrecondition(
            "towline.init was called before in this program, with another config; call it once, or finish "
            "that run first (run.finish(), or the end of `with towline.init(...)`)",
            reason="RUN_STARTED",
        )
    return run


def _container_parameters() -> dict[str, Any]:
    file = os.environ[environment.CONFIG]
    try:
        parameters = json.loads(Path(file).read_bytes())
        if not isinstance(parameters, dict):
            raise ValueError("not a JSON object")
    except (OSError, ValueError) as error:
        raise FailedPrecondition(
            f"{environment.CONFIG} names {file}, which cannot be read as the run's parameters: {error}",
            reason="CONFIG_UNREADABLE",
        ) from error
    return parameters


def _outputs(name: str | None) -> tuple[Path, Path]:
    """Give the outputs folder and the folder that all of this kind lie in."""
    if named := os.environ.get(environment.OUTPUTS):
        return Path(named), Path(named)
    base = Path(os.environ.get(environment.OUTPUTS_DIR) or "towline-outputs").absolute()
    word = (
        "".join(letter for letter in name or "" if letter.isalnum() or letter in "_-") or os.urandom(3).hex()
    )
    return base / f"{time.strftime('%Y%m%d-%H%M%S')}-{word}", base
