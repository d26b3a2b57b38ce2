"""Commands that packages install, such as torchrun and jupyter, and scripts that name their interpreter."""

import re
from pathlib import Path
from typing import Final

__all__ = ["interpreter_of", "is_installed"]

_HEAD_BYTES: Final = 1024
_PYTHON: Final = re.compile(r"(python|pypy)(\d+(\.\d+)*)?")
# How installers write an interpreter whose path is too long, or has a space.
_LONG: Final = re.compile(r"""'''exec' (?:"([^"]+)"|'([^']+)'|(\S+)) "\$0" "\$@\"""")


def interpreter_of(script: Path) -> str | None:
    """Give the Python interpreter that a script's first lines name, as they do; None: they name none."""
    try:
        with script.open("rb") as file:
            lines = file.read(_HEAD_BYTES).decode(errors="replace").splitlines()
    except OSError:
        return None
    if not lines or not lines[0].startswith("#!"):
        return None
    first, *rest = lines[0].removeprefix("#!").split() or [""]
    if Path(first).name == "env":
        rest = [word for word in rest if not word.startswith("-")]
        first = rest[0] if rest else ""
    if _PYTHON.fullmatch(Path(first).name):
        return first
    match = _LONG.match(lines[1]) if Path(first).name == "sh" and len(lines) > 1 else None
    return next(filter(None, match.groups())) if match else None


def is_installed(script: Path) -> bool:
    """Say whether a script is a command of an environment: it lies beside the interpreter that it names."""
    folder = script.parent
    if (folder.parent / "pyvenv.cfg").exists():
        return True
    interpreter = interpreter_of(script)
    return interpreter is not None and Path(interpreter).parent.resolve() == folder.resolve()
