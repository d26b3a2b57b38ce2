"""Notebooks as scripts, as W&B Launch runs them: the code of their cells, one after the other. No I/O."""

import json
from collections.abc import Iterator
from typing import Any, Final

from towline.capture.wandb_notes import Notes

__all__ = ["NOTEBOOK", "script_of"]

NOTEBOOK: Final = ".ipynb"

# What only IPython understands: magics, shell commands, help.
_NO_PYTHON: Final = ("%", "!", "?")


def script_of(notebook: bytes, place: str, notes: Notes) -> str:
    """Make a script of a notebook.

    Args:
        notebook: The file (nbformat 4).
        place: What it is called.
        notes: Gets the lines that are no Python, and are left out.

    Raises:
        ValueError: It is no notebook.
    """
    try:
        cells: Any = json.loads(notebook)["cells"]
        texts = [_text(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"is no notebook of Jupyter: {type(error).__name__}: {error}") from None
    cells_of_python = ["\n".join(_lines(text, place, notes)) for text in texts]
    return "\n\n\n".join(cell for cell in cells_of_python if cell.strip()) + "\n"


def _text(source: Any) -> str:
    return source if isinstance(source, str) else "".join(source)


def _lines(text: str, place: str, notes: Notes) -> Iterator[str]:
    whole_cell = text.lstrip().startswith("%%")
    for line in text.splitlines():
        bare = line.strip()
        if whole_cell or bare.startswith(_NO_PYTHON) or (bare.endswith("?") and bare[:-1].isidentifier()):
            notes.leave_out(place, f"{bare[:80]!r} is not Python")
            # An indented block must not become empty.
            yield f"{line[: len(line) - len(line.lstrip())]}pass  # {bare}" if not whole_cell else f"# {line}"
        else:
            yield line
