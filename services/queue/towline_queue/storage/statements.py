"""The hot statements, each a `.sql` file beside this module, read once."""

from functools import cache
from importlib.resources import files
from typing import Final

from sqlalchemy import Boolean, ColumnElement, TextClause, literal_column, text

__all__ = ["REACHABLE", "statement", "written"]

# clock_timestamp(), for a transaction may have waited for locks since it began.
_REACHABLE: Final = "(sessions.seen_time + sessions.disconnected_after > clock_timestamp())"

REACHABLE: Final[ColumnElement[bool]] = literal_column(_REACHABLE, Boolean)
"""Whether a session, a row of `sessions`, was heard of lately. The only place that says so."""


def written(name: str) -> str:
    """Return the text of `name`.sql; its `:parameters` are explained at its top.

    "{reachable}" in it stands for REACHABLE.
    """
    return files(__package__).joinpath(f"{name}.sql").read_text().replace("{reachable}", _REACHABLE)


@cache
def statement(name: str) -> TextClause:
    """Return the statement that is `written` in `name`.sql, for what goes through SQLAlchemy."""
    return text(written(name))
