"""A run as its program sees it."""

import atexit
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

from towline.errors import FailedPrecondition
from towline.runtime import environment
from towline.runtime.config import Config, Plain, merged
from towline.runtime.given import read
from towline.runtime.saying import say
from towline.runtime.schemas import schema_of
from towline.runtime.summary import Summary

if TYPE_CHECKING:
    from towline.runtime.recording import Recording

__all__ = ["Run", "init"]


class _Places(NamedTuple):
    """Where things of a run go."""

    outputs: Path
    summary: Path | None
    """The file of the results; None: they are kept by nobody."""
    artifacts: Path | None
    """Folder of what is logged; None: likewise."""
    spool: Path | None
    """Folder of the recording that this process is part of; None: of none."""


class Run:
    """One run: its parameters, what it reads and where its results go. Made by `towline.init`."""

    def __init__(
        self,
        config: Config,
        name: str,
        places: _Places,
        recording: "Recording | None",
        given: Sequence[Plain],
    ) -> None:
        self.config = config
        """The parameters: those of the submission in a container, else those given to `init`."""
        self.name = name
        """What people call it; empty where nobody said."""
        self.summary = Summary(places.summary)
        """Results by name, as JSON holds them: `run.summary["loss"] = 0.1`."""
        self._places = places
        self._recording = recording
        self._given = given
        self._pid = os.getpid()
        self._finished = False

    @property
    def outputs(self) -> Path:
        """The folder whose content is kept as the run's outputs; made when first asked for."""
        self._places.outputs.mkdir(parents=True, exist_ok=True)
        return self._places.outputs

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

    def use_artifact(self, artifact: str, name: str | None = None) -> Path:
        """Give the folder with the files of an artifact; they are only to be read.

        In a container it is an input of the run, and the submission decides which version that is. Elsewhere
        the version is downloaded into a cache (~/.cache/towline, or TOWLINE_CACHE_DIR), unless it is there,
        and the recorded job has it as an input.

        Args:
            artifact: "digits:v3", "digits:best" or "digits", its latest.
            name: What the job calls this input; by default as the artifact is called.

        Raises:
            InvalidArgument: The name is none, or was used for another artifact version.
            NotFound: There is no such artifact version; in a container: it is no input of this run.
            TowlineError: What the registry answered, or Unavailable: it cannot be reached.
        """
        from towline.runtime import artifacts  # noqa: PLC0415 - brings subprocess, and most programs read none

        return artifacts.use(artifact, name, self._places.spool)

    def log_artifact(
        self,
        path: str | os.PathLike[str],
        name: str | None = None,
        type: str = "file",
        aliases: Sequence[str] = (),
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """Keep a file or folder as a version of an artifact: it is copied now, made one when the run ends.

        Where nothing is recorded this does nothing; a disk that is full is told in one line.

        Args:
            path: A file, or a folder with all that is below it; links to files are read as those files.
            name: Name of the artifact; by default that of the file or folder.
            type: What it is, such as "model" or "dataset".
            aliases: Names for this version, besides "latest".
            metadata: What to say of it, as JSON holds it; at most 64 KiB.

        Raises:
            InvalidArgument: An argument cannot be; the message names it.
        """
        from towline.runtime import artifacts  # noqa: PLC0415 - likewise

        place = Path(path)
        said = artifacts.manifest(place.absolute().name if name is None else name, type, aliases, metadata)
        artifacts.log(place, said, self._places.artifacts)

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
        self.summary.flush()
        if self._recording is not None:
            self._recording.end(failure)
        if os.environ.get(environment.RECORDING) == str(os.getpid()):
            for variable in _OWN_VARIABLES:
                os.environ.pop(variable, None)

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
        return f"Run(name={self.name!r}, outputs={str(self._places.outputs)!r}, recorded={self.recorded})"


_current: Run | None = None
_OWN_VARIABLES = (
    environment.RECORDING,
    environment.OUTPUTS,
    environment.SPOOL,
    environment.SUMMARY,
    environment.ARTIFACTS,
)


def init(  # noqa: PLR0913 - what there is to say of a run is said in one call
    config: object = None,
    *,
    args: object = None,
    config_files: Mapping[str, str | os.PathLike[str]] | None = None,
    lock: str | os.PathLike[str] | None = None,
    dockerfile: str | os.PathLike[str] | None = None,
    system_packages: Sequence[str] = (),
    job: str | None = None,
    name: str | None = None,
    record: bool | None = None,
) -> Run:
    """Start the run of this program; returns within milliseconds.

    In a container that an agent started, the run's parameters are put over `config` and `args`, key by key.
    Elsewhere the run is recorded: a process beside this one takes a snapshot of the source as it is now, and
    makes a version of the job when the program ends, however it ends. Nothing that goes wrong with it breaks
    the program; one line on standard error, beginning with "towline:", tells of it. Parameters that JSON
    cannot hold (functions, what holds itself, what raises an exception when it is read) are not recorded, but
    stay in `run.config`; a `config` that cannot be read at all counts as none, and the run is not recorded.

    Not recorded are: interactive sessions; processes started by a program that is recorded (worker
    processes, for example); ranks above 0 (RANK, SLURM_PROCID, OMPI_COMM_WORLD_RANK, PMI_RANK); and
    anything with `record=False` or TOWLINE_RECORD=0.

    A second call gives the same run; once a run was finished (end of `with`, `finish()`), it starts another.

    Args:
        config: Default parameters: a dict, dataclass, argparse.Namespace, OmegaConf config or pydantic model.
            `run.config` has them as JSON does: tuples as lists, paths as text.
        args: What the program was called with: an argparse.Namespace, click's parameters (or its context),
            hydra's config, or a list of words that is parsed later. Its values are parameters too, over those
            of `config`; in a container it is changed in place to the run's.
        config_files: Files of the source tree, JSON or YAML with an object in it, by the parameter that their
            content becomes. In a container the file has the run's own content before the program starts.
        lock: The project's own lock (requirements.txt, uv.lock or environment.yml), which containers get in
            place of what is installed here.
        dockerfile: The project's Dockerfile that the image is built with; by default Dockerfile.towline in
            its root, if it is there.
        system_packages: Debian packages that containers need, such as ["ffmpeg"], besides those that apt.txt
            or packages.txt in the project's root lists.
        job: Name of the job; made from the script's name and folder where none is given.
        name: What people call this run; not used in containers, where the submission named it.
        record: False records nothing.

    Raises:
        FailedPrecondition: The run has started with another config (reason RUN_STARTED), the container's
            parameters cannot be read (reason CONFIG_UNREADABLE), or cannot be written into `args` (reason
            ARGS_NOT_UPDATED).
    """
    global _current  # noqa: PLW0603 - a process has one run
    given, problem = read(config, args)
    if _current is not None and not _current._finished:
        return _current if config is None and args is None else _same(_current, given.plain)
    in_container = bool(os.environ.get(environment.CONFIG))
    parameters = merged(given.plain.values, _container_parameters()) if in_container else given.plain.values
    outputs, base = _outputs(name)
    records = not in_container and not environment.why_not_recorded(record)
    files, wrong_files = _files(config_files)
    problem = problem or wrong_files
    asked = {"config": given.plain.values, "config_files": files, "job": job}
    if not in_container and not problem and (schema := schema_of(config)) is not None:
        asked["schema"] = schema
    recording = None
    if problem:
        say(f"not recorded: {problem}" if records else problem)
    elif records:
        from towline.runtime.recording import start  # noqa: PLC0415 - slow to import, not for containers

        os.environ[environment.RECORDING] = str(os.getpid())
        os.environ[environment.OUTPUTS] = str(outputs)
        recording = start(
            asked,
            refused=given.plain.refused,
            excluded=[base, outputs],
            lock=lock,
            dockerfile=dockerfile,
            system_packages=system_packages,
        )
    title = os.environ.get("TOWLINE_RUN_NAME", "") if in_container else name or ""
    if in_container:
        given.update_args(parameters)
    places = _places(outputs, keeps=in_container or not environment.switched_off(record))
    if places.spool and recording is None and not problem:
        from towline.runtime.spool import write_init  # noqa: PLC0415 - not for containers

        with suppress(Exception):  # the recording is over, or its disk full
            write_init(places.spool, asked)
    accepted = (given.plain, Plain(parameters, given.plain.rest, given.plain.refused))
    _current = Run(Config(merged(given.plain.rest, parameters)), title, places, recording, accepted)
    atexit.register(_current._at_exit)
    return _current


def _places(outputs: Path, *, keeps: bool) -> _Places:
    """Give the places that the environment names: the agent's, or those of the recording around it."""

    def named(variable: str) -> Path | None:
        value = os.environ.get(variable)
        return Path(value) if value and keeps else None

    summary = None if environment.rank_above_zero() else named(environment.SUMMARY)
    return _Places(outputs, summary, named(environment.ARTIFACTS), named(environment.SPOOL))


def _files(config_files: Mapping[str, str | os.PathLike[str]] | None) -> tuple[dict[str, str], str]:
    """Give configuration files with absolute paths, and what is wrong with them."""
    try:
        given = (config_files or {}).items()
        return {key: os.path.abspath(file) for key, file in given}, ""  # noqa: PTH100 - links are kept
    except (TypeError, AttributeError):
        return (
            {},
            "config_files: give a dict of parameter names and paths, such as {'model': 'conf/model.yaml'}",
        )


def _same(run: Run, given: Plain) -> Run:
    if (given.values, given.refused) not in [(each.values, each.refused) for each in run._given]:
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
