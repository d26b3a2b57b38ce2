"""The hot statements, each a `.sql` file beside this module, read once."""

from functools import cache
from importlib.resources import files

from sqlalchemy import TextClause, text

__all__ = ["statement"]


@cache
def statement(name: str) -> TextClause:
    """Return the statement in `name`.sql; its `:parameters` are explained at its top."""
    return text(files(__package__).joinpath(f"{name}.sql").read_text())
