"""Archives of source trees, unpacked to be changed."""

import os
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from towline.capture.archive import Archive
from towline.errors import FailedPrecondition

__all__ = ["apply_patch", "unpacked"]

_GIT_TIMEOUT_S: Final = 120


@contextmanager
def unpacked(archive: Path) -> Iterator[Path]:
    """Unpack an archive for the time of the block; what the folder holds then becomes the archive."""
    with tempfile.TemporaryDirectory(prefix="towline-wandb-") as name:
        tree = Path(name, "tree")
        tree.mkdir()
        with tarfile.open(archive) as tar:
            tar.extractall(tree, filter="tar")
        yield tree
        with archive.open("wb") as target:
            packed = Archive(target)
            for path in sorted(_files_below(tree)):
                place = tree / path
                if place.is_symlink():
                    packed.add_link(path, os.fspath(place.readlink()))
                else:
                    packed.add_file(path, place)
            packed.end()


def _files_below(tree: Path) -> Iterator[str]:
    for folder, folders, names in os.walk(tree):
        links = [name for name in folders if Path(folder, name).is_symlink()]
        for name in (*names, *links):
            yield Path(folder, name).relative_to(tree).as_posix()


def apply_patch(tree: Path, patch: bytes, strip: int) -> bool:
    """Apply what `git diff` wrote to a tree; False: it is applied already.

    Args:
        tree: A folder; it need not be a repository.
        patch: The patch.
        strip: Parts to take off its paths, 1 for "a/" and "b/".

    Raises:
        FailedPrecondition: It does not fit (PATCH_DOES_NOT_APPLY), or there is no git (GIT_FAILED).
    """
    with tempfile.TemporaryDirectory(prefix="towline-wandb-") as name:
        file = Path(name, "diff.patch")
        file.write_bytes(patch)
        problem = _git_apply(tree, file, strip)
        if problem and not _git_apply(tree, file, strip, "--reverse", "--check"):
            return False
    if problem:
        raise FailedPrecondition(problem, reason="PATCH_DOES_NOT_APPLY")
    return True


def _git_apply(tree: Path, patch: Path, strip: int, *options: str) -> str:
    """Run git apply in a folder that is no repository; gives what is wrong, "" if nothing is."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(
            ["git", "apply", f"-p{strip}", "--whitespace=nowarn", *options, str(patch)],
            cwd=tree,
            env=environment | {"GIT_CEILING_DIRECTORIES": str(tree.parent), "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_GIT_TIMEOUT_S,
            check=False,
        )
    except OSError as error:
        raise FailedPrecondition(
            f"git cannot be started to apply the patch ({error.strerror}); install git", reason="GIT_FAILED"
        ) from None
    said = " ".join(done.stderr.decode(errors="replace").split())
    return (said or f"git apply ended with {done.returncode}") if done.returncode else ""
