"""The parameters of a command that nobody has told them: those that its arguments show."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from towline.capture.entrypoint import Program
from towline.runtime.arguments import Template, templated, templated_papermill

__all__ = ["parameterized"]

# These start another program, behind whose name its own arguments begin.
_LAUNCHERS: Final = frozenset({"accelerate", "deepspeed", "horovodrun", "torchrun"})
_LAUNCHER_MODULES: Final = frozenset(
    {"accelerate.commands.launch", "torch.distributed.launch", "torch.distributed.run"}
)
# The options of these are no parameters of what they run.
_NONE: Final = frozenset({"ipython", "jupyter", "jupyter-execute", "jupyter-nbconvert", "pytest"})


def parameterized(program: Program) -> tuple[Program, dict[str, Any]]:
    """Put placeholders for the values that are parameters into a program's arguments, and give these.

    Both are as before where there are none. See `towline.runtime.arguments`.
    """
    template = _template(program)
    return replace(program, arguments=tuple(template.words)), template.config


def _template(program: Program) -> Template:
    arguments = list(program.arguments)
    if "papermill" in (program.command, program.module):
        return templated_papermill(arguments)
    if program.command in _NONE or program.module in _NONE:
        return Template(arguments, {})
    start = 0
    if program.command in _LAUNCHERS or program.module in _LAUNCHER_MODULES:
        start = _launched(program)
    own = templated(arguments[start:])
    return Template([*arguments[:start], *own.words], own.config)


def _launched(program: Program) -> int:
    """Give the place where the arguments of a launched program begin; the end if that cannot be told."""
    for at, word in enumerate(program.arguments):
        if Path(word).suffix == ".py" and (program.cwd / word).is_file():
            return at + 1
        if word in ("-m", "--module"):
            return at + 2
    return len(program.arguments)
