"""How a Python program was started, and how to start it again."""

import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from towline.capture.console_scripts import interpreter_of, is_installed
from towline.errors import InvalidArgument

__all__ = ["Entrypoint", "Program", "entrypoint_of", "job_name", "parse_command", "script_or_command"]

_PYTHON: Final = re.compile(r"(python|pypy)(\d+(\.\d+)*)?")
# Names that say nothing about what a script does; its folder does.
_PLAIN_NAMES: Final = frozenset({"__main__", "app", "main", "run", "script", "train"})
_SCRIPTS: Final = frozenset({".py", ".ipynb"})
_MOST_LETTERS: Final = 128


@dataclass(frozen=True)
class Program:
    """A Python program as somebody starts it: a script, a module or an installed command."""

    cwd: Path
    script: Path | None = None
    """Absolute."""
    module: str | None = None
    """Its dotted name, as `python -m` takes it."""
    command: str | None = None
    """Its name, such as "torchrun": it is found on the PATH of the environment."""
    arguments: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    """Options of the interpreter, such as "-O"."""

    @property
    def described(self) -> str:
        """What people call it."""
        return self.command or (str(self.script) if self.script else f"-m {self.module}")


@dataclass(frozen=True)
class Entrypoint:
    """How a program is started in its source tree."""

    command: tuple[str, ...]
    working_dir: str
    """Relative to the root of the tree, "/"-separated; empty: the root."""


def parse_command(argv: Sequence[str], cwd: Path) -> tuple[str, Program]:
    """Read the command that starts a Python program.

    Args:
        argv: As it is typed: python and what follows, a command that a package has installed, or a script
            that names its interpreter.
        cwd: Where it is started.

    Returns:
        The interpreter, as it is written, and the program.

    Raises:
        InvalidArgument: It starts no Python program, or the script does not exist.
    """
    if not argv or not _PYTHON.fullmatch(Path(argv[0]).name):
        return _parse_executable(argv, cwd)
    options, rest = _options(argv[1:])
    if rest and rest[0] == "-m":
        if len(rest) == 1:
            raise InvalidArgument.field("command", "-m needs the name of a module")
        return argv[0], Program(cwd, module=rest[1], arguments=tuple(rest[2:]), options=options)
    if not rest or rest[0] in ("-", "-c"):
        problem = "it names no script"
        if rest[:1] == ["-"]:
            problem = "there is no script: the program comes on standard input"
        raise InvalidArgument.field("command", f"{problem}; write python SCRIPT … or python -m MODULE …")
    script = cwd / rest[0]
    if not (script.is_file() or (script / "__main__.py").is_file()):
        raise InvalidArgument.field("command", f"the script {rest[0]} does not exist in {cwd}")
    return argv[0], script_or_command(Program(cwd, script=script, arguments=tuple(rest[1:]), options=options))


def script_or_command(program: Program) -> Program:
    """Take a script that a package has installed as the command it is."""
    if program.script is None:
        return program
    script = Path(os.path.abspath(program.script))  # noqa: PTH100 - links are kept as people wrote them
    if script.suffix != ".py" and script.is_file() and is_installed(script):
        return replace(program, script=None, command=script.name, options=())
    return replace(program, script=script)


def _parse_executable(argv: Sequence[str], cwd: Path) -> tuple[str, Program]:
    """Read a command that does not begin with python."""
    word = argv[0] if argv else ""
    found = str(cwd / word) if "/" in word else shutil.which(word) if word else None
    interpreter = interpreter_of(Path(found)) if found else None
    if found is None or interpreter is None:
        started = f"{word!r} is no Python interpreter, and no Python program" if argv else "there is none"
        raise InvalidArgument.field(
            "command",
            f"{started}; write python SCRIPT …, python -m MODULE … or a command that a Python package has "
            "installed, such as torchrun …",
        )
    if "/" in word and not is_installed(Path(found)):
        return interpreter, script_or_command(Program(cwd, script=Path(found), arguments=tuple(argv[1:])))
    return interpreter, Program(cwd, command=Path(found).name, arguments=tuple(argv[1:]))


def _options(words: Sequence[str]) -> tuple[tuple[str, ...], list[str]]:
    """Part the interpreter's options from the rest, which begins with a script, "-m", "-c" or "-"."""
    at = 0
    while at < len(words) and words[at].startswith("-") and words[at] != "-":
        word = words[at]
        if word.startswith("--"):
            at += 2 if word == "--check-hash-based-pycs" else 1
            continue
        for place, letter in enumerate(word[1:], start=1):
            if letter in "mc":  # also as in -um MODULE and -mMODULE
                flags = [word[:place]] if place > 1 else []
                inline = [word[place + 1 :]] if word[place + 1 :] else []
                return (*words[:at], *flags), [f"-{letter}", *inline, *words[at + 1 :]]
            if letter in "WX":
                at += 0 if word[place + 1 :] else 1
                break
        at += 1
    return tuple(words[:at]), list(words[at:])


def entrypoint_of(program: Program, root: Path) -> Entrypoint:
    """Write a program's command relative to its source tree.

    The working directory is kept where it lies in the tree; else the command starts in the root.

    Raises:
        InvalidArgument: The script is not in the tree.
    """
    root = root.resolve()
    cwd = program.cwd.resolve()
    folder = cwd if cwd.is_relative_to(root) else root
    working_dir = folder.relative_to(root).as_posix()
    if program.command is not None:
        start = [program.command]
    elif program.script is None:
        start = ["python", *program.options, "-m", str(program.module)]
    else:
        script = program.script.parent.resolve() / program.script.name
        if not script.is_relative_to(root):
            truly = f" (which is {script})" if script != program.script else ""
            raise InvalidArgument.field(
                "command",
                f"the script {program.script}{truly} lies outside of the source tree {root}; change to the "
                "script's folder first, or copy it into the tree",
            )
        start = ["python", *program.options, Path(os.path.relpath(script, folder)).as_posix()]
    return Entrypoint((*start, *program.arguments), "" if working_dir == "." else working_dir)


def job_name(program: Program) -> str:
    """Name a job after its script, and the folder where that alone says little ("digits-train").

    The script of a command, such as of torchrun, is the first script or notebook among its arguments; one
    that stands behind an option, such as --output, only where there is no other.
    """
    files = [program.script] if program.script else []
    if program.command is not None:
        before = ("", *program.arguments)
        found = [
            (before[at], word) for at, word in enumerate(program.arguments) if Path(word).suffix in _SCRIPTS
        ]
        found.sort(key=lambda pair: pair[0].startswith("-"))
        files = [Path(os.path.abspath(program.cwd / word)) for _, word in found[:1]]  # noqa: PTH100 - as above
    if files:
        (script,) = files
        words = [script.stem]
        if script.stem in _PLAIN_NAMES and script.parent.name:
            words = [script.parent.name] if script.stem == "__main__" else [script.parent.name, script.stem]
    else:
        words = [program.command or program.module or program.cwd.stem]
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", "-".join(words)).strip("-.")
    return name[:_MOST_LETTERS].rstrip("-.") or "job"
