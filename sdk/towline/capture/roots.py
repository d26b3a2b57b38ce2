"""Which folder is the source tree of a program."""

import os
from pathlib import Path
from typing import Final, NamedTuple

from towline.capture import git
from towline.capture.entrypoint import Program
from towline.capture.tree import is_data_folder
from towline.errors import InvalidArgument

__all__ = ["Root", "root_of_command", "root_of_running"]

# Nothing in these is a project, whether or not somebody keeps them in git (etckeeper does).
_SYSTEM: Final = ("/bin", "/boot", "/etc", "/lib", "/lib64", "/proc", "/sbin", "/sys")
# Projects lie in folders in these.
_SHARED: Final = frozenset(
    {"/dev", "/home", "/media", "/mnt", "/opt", "/root", "/run", "/srv", "/tmp", "/usr", "/usr/local", "/var"}  # noqa: S108 - nothing is written there
)


class Root(NamedTuple):
    """The top folder of a source tree."""

    folder: Path
    checkout: bool
    """Whether it is that of a git checkout."""


def root_of_command(program: Program) -> Root:
    """Give the source tree of a program that somebody asks for: what they stand in, and nothing beyond.

    It is the git checkout that the working directory lies in, readable or not, else the working directory; a
    checkout that is a person's whole folder is none.

    Raises:
        InvalidArgument: The script is an installed command, or the tree would be a system's or a person's
            whole folder.
    """
    _check_script(program)
    return _checked(_around(program.cwd))


def root_of_running(program: Program) -> Root:
    """Give the source tree of a program that runs already, from wherever it was started.

    It is the git checkout that script and working directory lie in, else the one that the script lies in,
    else the script's folder; for a module, see `root_of_command`.

    Raises:
        InvalidArgument: See `root_of_command`.
    """
    _check_script(program)
    around = _around(program.cwd)
    if program.script is None:
        return _checked(around)
    folder = program.script.parent.resolve()
    if not folder.is_dir():
        raise InvalidArgument.field(
            "command", f"{folder} is no folder, or not there any more; start the script in its source tree"
        )
    project = around.checkout or around.folder == git.repository_around(program.cwd)
    together = project and folder.is_relative_to(around.folder.resolve())
    return _checked(around if together else _around(folder))


def _around(folder: Path) -> Root:
    checkout = git.checkout_of(folder)
    # Without git, or with a repository that it cannot read, a project is where it was.
    around = checkout or git.repository_around(folder)
    # People keep their whole home in git, for a few files of it.
    if around is None or _is_whole(around.resolve()):
        return Root(folder, checkout=False)
    return Root(around, checkout=checkout is not None)


def _check_script(program: Program) -> None:
    if program.script is None:
        return
    script = program.script.parent.resolve() / program.script.name
    if (script.parent.parent / "pyvenv.cfg").exists() or "site-packages" in script.parts:
        raise InvalidArgument.field(
            "command", f"{script} is an installed command, not a script of a source tree; run python SCRIPT …"
        )


def _checked(root: Root) -> Root:
    folder = root.folder.resolve()
    if _is_whole(folder) or (not root.checkout and str(folder) in _SHARED):
        raise InvalidArgument.field(
            "command",
            f"the source tree would be the whole of {folder}; put the program into a folder of its own",
        )
    if is_data_folder(folder):
        raise InvalidArgument.field(
            "command",
            f"the source tree {folder} is a data folder of Towline; put the program into a folder of its own",
        )
    return root


def _is_whole(folder: Path) -> bool:
    """Say whether a folder is a machine's, a person's or a system's."""
    home = Path(os.path.expanduser("~")).resolve()  # noqa: PTH111 - never raises
    return folder in (Path("/"), home) or any(folder.is_relative_to(each) for each in _SYSTEM)
