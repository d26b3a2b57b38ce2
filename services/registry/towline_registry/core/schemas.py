"""JSON Schemas (Draft 2020-12) of job parameters: derived from defaults, or given and checked."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, Final

from towline.errors import InvalidArgument
from towline.requests.json_schemas import Schema
from towline_registry.core import json_objects
from towline_registry.core.json_objects import JsonObject

__all__ = ["derived", "misfits", "read"]

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
MAX_VIOLATIONS: Final = 100

_SCALARS: Final = {bool: "boolean", int: "integer", float: "number", str: "string"}


def derived(config: JsonObject) -> JsonObject:
    """Derive the closed schema that takes the same keys with the same types.

    An integer takes integers, another number any number, null anything; a list whose items are
    alike takes such items, any other list anything; objects are closed at every depth.
    """
    return {"$schema": DIALECT, **_of(config)}


def _of(value: Any) -> JsonObject:
    match value:
        case list():
            items = _of_items(value)
            return {"type": "array", "items": items} if items else {"type": "array"}
        case dict():
            properties = {key: _of(each) for key, each in value.items()}
            return {"type": "object", "properties": properties, "additionalProperties": False}
        case _:
            name = _SCALARS.get(type(value))
            return {"type": name} if name else {}


def _of_items(values: Iterable[Any]) -> JsonObject:
    """Find the one schema of all items; {} where they differ."""
    found: list[JsonObject] = []
    for value in values:
        schema = _of(value)
        if schema not in found:
            found.append(schema)
        if len(found) > 2:
            return {}
    if len(found) == 1:
        return found[0]
    if found and all(schema.get("type") in ("integer", "number") for schema in found):
        return {"type": "number"}
    return {}


def read(text: str, field: str) -> Schema:
    """Read a schema that refers to nothing outside itself.

    Raises:
        InvalidArgument: It is none of Draft 2020-12; names `field`, and in the message the places in it.
    """
    schema = json_objects.read(text, field)
    if schema.get("$schema", DIALECT) not in (DIALECT, f"{DIALECT}#"):
        raise InvalidArgument.field(
            field, f'is of another draft; write "$schema": "{DIALECT}" or leave it out'
        )
    try:
        made = Schema(text)
        made.check_alone()
    except ValueError as error:
        raise InvalidArgument.field(field, str(error)) from None
    return made


def misfits(schema: Schema, config: JsonObject, field: str) -> Iterator[tuple[str, str]]:
    """Give path and problem of each default that its schema, read from `field`, does not take.

    Raises:
        InvalidArgument: The schema turns out to be broken; names `field`.
    """
    for path, problem in islice(schema.violations(config), MAX_VIOLATIONS):
        if path is None:
            raise InvalidArgument.field(field, problem)
        yield path, problem
