"""The code of a job of W&B: a folder given beside it, with its patch applied."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from towline.capture.git import checkout_of
from towline.capture.source import Snapshot, take_snapshot
from towline.capture.wandb_notebooks import NOTEBOOK, script_of
from towline.capture.wandb_notes import Notes, wrong
from towline.capture.wandb_patch import PATCH, Patch
from towline.capture.wandb_tree import apply_patch, unpacked
from towline.errors import FailedPrecondition, InvalidArgument

__all__ = ["Code", "code_of", "script_place"]


@dataclass(frozen=True)
class Code:
    """The code, as it was when the run was recorded."""

    archive: Path
    """Uncompressed tar, as `take_snapshot` makes it."""
    entrypoint: tuple[str, ...]
    """The command, with the script's path as it is in the archive."""
    warnings: tuple[str, ...]
    """Lines for people: what was left out, and why."""


@contextmanager
def code_of(folder: Path, entrypoint: Sequence[str], patch: Patch, notes: Notes) -> Iterator[Code]:
    """Take a snapshot of a folder and apply the patch to it; it is removed at the end of the block.

    W&B logs a folder's content and keeps the script's path from further up: "jobs/train.py" is found as
    "train.py" too. A patch that is applied in the folder already is left at that. A notebook gets a script
    beside it, which is started in its place.

    Raises:
        InvalidArgument: It is no folder, or does not have the script.
        FailedPrecondition: The patch does not fit; reason PATCH_DOES_NOT_APPLY. Or see `take_snapshot`.
    """
    if not folder.is_dir():
        raise InvalidArgument.field("--code", f"{folder} is not a folder")
    # Where W&B keeps its runs; a package of that name is source.
    runs = folder / "wandb"
    excluded = [runs] if runs.is_dir() and not (runs / "__init__.py").exists() else []
    snapshot = take_snapshot(folder, checkout=checkout_of(folder) == folder.resolve(), excluded=excluded)
    try:
        command, above = _located(entrypoint, snapshot, patch, notes)
        inside = patch.below(above, notes) if above else patch
        if inside:
            _patch(snapshot, inside.content, 1 + len(PurePosixPath(above).parts), notes)
        place = script_place(command)
        if place is not None and command[place].endswith(NOTEBOOK):
            script = _converted(snapshot, command[place], notes)
            command = (*command[:place], script, *command[place + 1 :])
        yield Code(snapshot.archive, command, snapshot.warnings)
    finally:
        snapshot.archive.unlink(missing_ok=True)


def _located(
    entrypoint: Sequence[str], snapshot: Snapshot, patch: Patch, notes: Notes
) -> tuple[tuple[str, ...], str]:
    """Find the script of a command; gives the command and the folder that the script's path had too much."""
    place = script_place(entrypoint)
    if place is None:
        return tuple(entrypoint), ""
    path = PurePosixPath(os.path.normpath(entrypoint[place]))
    if str(path) in snapshot.paths:
        return tuple(entrypoint), ""
    for count in range(1, len(path.parts)):
        shorter = PurePosixPath(*path.parts[count:])
        if str(shorter) in snapshot.paths:
            above = str(PurePosixPath(*path.parts[:count]))
            notes.repair(
                "source.entrypoint", f"{path} is {shorter} in {snapshot.root}: W&B logged the folder {above}"
            )
            return (*entrypoint[:place], str(shorter), *entrypoint[place + 1 :]), above.strip("/")
    if str(path) in patch.paths:  # it makes the script
        return tuple(entrypoint), ""
    raise wrong(
        "--code",
        str(snapshot.root),
        f"has no {path}, which source.entrypoint starts; give the folder it lies in, or a command after --",
    )


def script_place(entrypoint: Sequence[str]) -> int | None:
    """Say which word of a command is the script that Python runs; None: there is no such word."""
    if not entrypoint or not PurePosixPath(entrypoint[0]).name.startswith("python"):
        return None
    for place, word in enumerate(entrypoint[1:], start=1):
        if word in ("-m", "-c"):
            return None
        if not word.startswith("-"):
            return place
    return None


def _patch(snapshot: Snapshot, patch: bytes, strip: int, notes: Notes) -> None:
    try:
        with unpacked(snapshot.archive) as tree:
            applied = apply_patch(tree, patch, strip)
    except FailedPrecondition as error:
        raise FailedPrecondition(
            f"{PATCH} does not fit {snapshot.root}: {error.message}; give the code of the job's commit",
            reason=error.reason,
        ) from None
    if not applied:
        notes.repair(PATCH, f"is applied in {snapshot.root} already")


def _converted(snapshot: Snapshot, path: str, notes: Notes) -> str:
    """Put a script beside a notebook, and give its path."""
    script = f"{path.removesuffix(NOTEBOOK)}.py"
    if script in snapshot.paths:
        script = f"{path.removesuffix(NOTEBOOK)}_notebook.py"
    with unpacked(snapshot.archive) as tree:
        try:
            text = script_of((tree / path).read_bytes(), path, notes)
        except ValueError as error:
            raise wrong(path, "", str(error)) from None
        (tree / script).write_text(text, encoding="utf-8")
    notes.repair("source.notebook", f"{path} is started as the script {script}, made of its cells")
    return script
