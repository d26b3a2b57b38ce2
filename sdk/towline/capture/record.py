"""From a program to a version of a job."""

import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from towline.capture import dockerfiles, environment
from towline.capture.dockerfiles import Dockerfile, DockerfileWish
from towline.capture.entrypoint import Entrypoint, Program, entrypoint_of, job_name, parse_command
from towline.capture.environment import Environment
from towline.capture.locks import LockFile, read_lock
from towline.capture.roots import Root, root_of_command
from towline.capture.source import Snapshot, take_snapshot
from towline.capture.system_packages import image_platform
from towline.errors import InvalidArgument
from towline.requests.system import checked

if TYPE_CHECKING:
    from towline.client import AsyncClient, Progress
    from towline.v1 import jobs_pb2

__all__ = ["Captured", "capture_command", "capture_program", "create_job", "interpreter_path"]


@dataclass(frozen=True)
class Captured:
    """A program that can be made a job. Leave its `with` block, or `close` it, to remove the snapshot."""

    job: str
    """The name the job gets unless another is given."""
    entrypoint: Entrypoint
    environment: Environment
    snapshot: Snapshot
    config_json: str
    dockerfile: Dockerfile | None = None
    """What the image is built with in place of the environment; None: nothing."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """Lines for people: what was left out, and why."""
        return (*self.snapshot.warnings, *self.environment.warnings)

    @property
    def archive(self) -> Path:
        """The source tree, as a tar archive."""
        return self.snapshot.archive

    @property
    def wheels(self) -> tuple[Path, ...]:
        """Files that the registry must have besides the archive."""
        return tuple(wheel.path for wheel in self.environment.wheels)

    def spec(self, digest: str) -> "jobs_pb2.JobSpec":
        """Give the content of the job version.

        Args:
            digest: Of the archive, as its upload gives it.
        """
        # protobuf is loaded at the end of a recording
        from towline.capture import environment_messages  # noqa: PLC0415
        from towline.v1 import jobs_pb2  # noqa: PLC0415

        checkout = self.snapshot.checkout
        return jobs_pb2.JobSpec(
            code=jobs_pb2.CodeSource(digest=digest, size_bytes=self.snapshot.size_bytes),
            entrypoint=self.entrypoint.command,
            working_dir=self.entrypoint.working_dir,
            python=environment_messages.python(self.environment),
            platform=image_platform(self.environment.platform),
            dockerfile=self.dockerfile.message() if self.dockerfile else None,
            config_json=self.config_json,
            provenance=jobs_pb2.Provenance(
                git_commit=checkout.commit,
                git_remote=checkout.remote,
                git_branch=checkout.branch,
                git_dirty=checkout.dirty,
                platform=self.environment.platform,
                system=environment_messages.system(self.environment.system),
            ),
        )

    def built_with(self, wish: DockerfileWish) -> Self:
        """Return it with the Dockerfile that people name; see `dockerfiles.find` for the errors."""
        return replace(self, dockerfile=dockerfiles.find(wish, self.snapshot.root, self.snapshot.paths))

    def with_system_packages(self, packages: Iterable[str], field: str) -> Self:
        """Return it with more system packages; InvalidArgument, which names the field, if one is none."""
        added = checked((*self.environment.system_packages, *packages), field)
        return replace(self, environment=replace(self.environment, system_packages=added))

    def close(self) -> None:
        """Remove the snapshot and the wheels from this machine."""
        self.archive.unlink(missing_ok=True)
        self.environment.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def capture_command(
    argv: Sequence[str], cwd: Path, *, config_json: str = "{}", lock: LockFile | None = None
) -> Captured:
    """Capture a Python program without running it.

    The interpreter is the one the command names; it may live in another environment than this one. See
    `root_of_command` for the source tree.

    Args:
        argv: As a person types it: ["python", "train.py", "--lr", "0.1"].
        cwd: Where it would be started.
        config_json: Default parameters of the job: the text of a JSON object.
        lock: The project's own lock, in place of what is installed.

    Raises:
        InvalidArgument: No such interpreter or script, no Python program at all, or see `capture_program`
            and `root_of_command`.
        FailedPrecondition: See `take_snapshot`.
        OSError: See `take_snapshot`.
    """
    named, program = parse_command(argv, cwd)
    interpreter = interpreter_path(named, cwd)

    def describe() -> Mapping[str, Any]:
        return environment.ask(interpreter, cwd)

    return capture_program(program, root_of_command(program), describe, config_json=config_json, lock=lock)


def interpreter_path(named: str, cwd: Path) -> Path:
    """Find an interpreter that a command names; InvalidArgument where there is none."""
    found = shutil.which(named) if "/" not in named else str(cwd / named)
    if found is None:
        raise InvalidArgument.field("command", f"{named} is not on the PATH")
    return Path(found)


def capture_program(
    program: Program,
    root: Root,
    describe: Callable[[], Mapping[str, Any]],
    *,
    config_json: str,
    excluded: Sequence[Path] = (),
    lock: LockFile | None = None,
) -> Captured:
    """Capture a program: its source tree, and what is installed for it.

    Args:
        program: Script or module.
        root: Its source tree.
        describe: Tells about its interpreter; see `environment.ask`.
        config_json: Default parameters: the text of a JSON object.
        excluded: Folders that are no source.
        lock: The project's own lock, in place of what is installed.

    Raises:
        InvalidArgument: The script lies outside of its source tree, or is left out of the snapshot; or see
            `read_lock`.
        FailedPrecondition: See `take_snapshot`.
        OSError: See `take_snapshot`.
    """
    entrypoint = entrypoint_of(program, root.folder)
    asked = read_lock(lock, root.folder) if lock else None
    inspection = environment.inspect(describe(), root.folder, asked)
    snapshot = take_snapshot(root.folder, checkout=root.checkout, excluded=excluded, extra=inspection.added)
    try:
        _check_included(program, snapshot)
        dockerfile = dockerfiles.find(DockerfileWish(), snapshot.root, snapshot.paths)
        found = inspection.environment(snapshot.paths)
    except BaseException:
        snapshot.archive.unlink()
        raise
    return Captured(job_name(program), entrypoint, found, snapshot, config_json, dockerfile)


def _check_included(program: Program, snapshot: Snapshot) -> None:
    if program.script is None:
        return
    script = program.script.parent.resolve() / program.script.name
    path = script.relative_to(snapshot.root.resolve()).as_posix()
    if path in snapshot.paths or f"{path}/__main__.py" in snapshot.paths:
        return
    why = snapshot.left_out.get(path) or snapshot.left_out.get(f"{path}/__main__.py")
    if why is None and not script.exists():
        why = "it is not there any more"
    raise InvalidArgument.field(
        "command",
        f"the script {path} is left out of the snapshot; "
        f"{why or '.gitignore or .towlineignore names it, or its folder is no source'}",
    )


async def create_job(
    client: "AsyncClient",
    captured: Captured,
    *,
    job: str | None = None,
    author: str = "",
    progress: "Progress | None" = None,
) -> "jobs_pb2.CreateJobVersionResponse":
    """Upload a captured program and add a version to its job.

    Args:
        client: Of the registry.
        captured: The program.
        job: Name of the job; None: made from the program's.
        author: Who made it; informative.
        progress: Called with the bytes uploaded and the bytes in all.

    Returns:
        The version; `created` is false where one already had this content.

    Raises:
        TowlineError: What the registry answered, or Unavailable.
    """
    for wheel in captured.wheels:
        await client.blobs.upload(wheel)
    digest = await client.blobs.upload(captured.archive, progress)
    return await client.jobs.create_version(job or captured.job, captured.spec(digest), author=author)
