"""How PostgreSQL carries out statements: which were sent, and the plans they get."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import Engine, event

from towline_queue.storage.database import Row, Transaction

if TYPE_CHECKING:
    import asyncpg

_PLANNED = {"WITH", "SELECT", "INSERT", "UPDATE", "DELETE"}


@dataclass(frozen=True)
class Sent:
    """A statement as it was sent: its file's name, or "" for one that SQLAlchemy made."""

    name: str
    text: str
    values: tuple[Any, ...]

    @property
    def planned(self) -> bool:
        """Whether PostgreSQL plans it: it reads or writes rows of the services' tables."""
        return "queue." in self.text and self.text.split(maxsplit=1)[0].upper() in _PLANNED


@dataclass(frozen=True)
class Plan:
    """A plan as PostgreSQL explains it."""

    root: dict[str, Any]

    @cached_property
    def nodes(self) -> list[tuple[dict[str, Any], tuple[dict[str, Any], ...]]]:
        """Each node with those above it, the nearest first."""
        return list(_walk(self.root, ()))

    def indexes(self, table: str) -> set[str]:
        """Return the indexes by which rows of a table are found."""
        return {
            node["Index Name"]
            for node, _ in self.nodes
            if node.get("Relation Name") == table and "Index Name" in node
        }

    def between(self, table: str, end: str) -> set[str]:
        """Return the kinds of nodes that rows of a table pass on their way to the first node of a kind."""
        passed = set()
        for node, above in self.nodes:
            if node.get("Relation Name") == table and "Index Name" in node:
                kinds = [parent["Node Type"] for parent in above]
                passed |= set(kinds[: kinds.index(end)] if end in kinds else kinds)
        return passed

    @property
    def buffers(self) -> int:
        """Pages that it touched."""
        return int(self.root["Shared Hit Blocks"] + self.root["Shared Read Blocks"])


def _walk(
    node: dict[str, Any], above: tuple[dict[str, Any], ...]
) -> Iterator[tuple[dict[str, Any], tuple[dict[str, Any], ...]]]:
    yield node, above
    for child in node.get("Plans", ()):
        yield from _walk(child, (node, *above))


@contextmanager
def recording(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Sent]]:
    """Give what is sent to PostgreSQL meanwhile, by services that run in this process."""
    sent: list[Sent] = []
    original = Transaction.rows

    class Listening:
        def __init__(self, name: str, connection: Any) -> None:
            self._name = name
            self._connection = connection

        async def fetch(self, text: str, *values: Any) -> list[Row]:
            sent.append(Sent(self._name, text, values))
            return await self._connection.fetch(text, *values)

    async def rows(self: Transaction, name: str, /, **parameters: Any) -> list[Row]:
        return await original(Transaction(Listening(name, self._connection)), name, **parameters)

    def noted(_: Any, __: Any, text: str, values: Any, *___: Any) -> None:
        sent.append(Sent("", text, tuple(values)))

    monkeypatch.setattr(Transaction, "rows", rows)
    event.listen(Engine, "before_cursor_execute", noted)
    try:
        yield sent
    finally:
        event.remove(Engine, "before_cursor_execute", noted)


async def plan(
    connection: "asyncpg.Connection[Row]", sent: Sent, *, generic: bool = True, analyze: bool = False
) -> Plan:
    """Return the plan of a statement, one for any values or for just these.

    With `analyze` it is carried out and taken back, and the plan tells what it cost.
    """
    mode = "force_generic_plan" if generic else "force_custom_plan"
    types = [f"{kind.schema}.{kind.name}" for kind in (await connection.prepare(sent.text)).get_parameters()]
    values = [
        await connection.fetchval(f"SELECT quote_nullable(CAST(CAST($1 AS {kind}) AS text))", value)
        for kind, value in zip(types, sent.values, strict=True)
    ]
    change = connection.transaction()
    await change.start()
    try:
        await connection.execute(f"SET LOCAL plan_cache_mode = {mode}")
        declared = f"({', '.join(types)})" if types else ""
        given = f"({', '.join(values)})" if values else ""
        await connection.execute(f"PREPARE explained {declared} AS {sent.text}")
        options = "ANALYZE, BUFFERS, FORMAT JSON" if analyze else "FORMAT JSON"
        answer = await connection.fetchval(f"EXPLAIN ({options}) EXECUTE explained {given}")
        await connection.execute("DEALLOCATE explained")
        return Plan(json.loads(answer)[0]["Plan"])
    finally:
        await change.rollback()
