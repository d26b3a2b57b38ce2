"""What a recorded run was given and has found, as types."""

from collections.abc import Mapping
from typing import Any, Final

__all__ = ["covering", "schema_of", "tracked"]

_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_TYPES: Final = {bool: "boolean", int: "integer", float: "number", str: "string"}


def schema_of(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Derive the JSON Schema of results: names and types; others may come besides."""
    return {"$schema": _DIALECT, **_of(summary)}


def covering(schema: Mapping[str, Any], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Give a schema of parameters with those in it that it does not know, such as the content of a file."""
    known = schema.get("properties", {})
    own = {name: _of(value) for name, value in parameters.items() if name not in known}
    return {**schema, "properties": {**known, **own}}


def tracked(parameters: Mapping[str, Any], guessed: Mapping[str, Any]) -> dict[str, Any]:
    """Derive the closed schema of parameters of which some were only seen on a command line.

    There a 1 may as well be a number with a fraction: only the program knows.

    Args:
        parameters: All of them.
        guessed: Those that were only seen.
    """
    return {"$schema": _DIALECT, **_closed(parameters, guessed)}


def _closed(value: Any, guessed: Any) -> dict[str, Any]:
    if isinstance(value, Mapping):
        known = guessed if isinstance(guessed, Mapping) else {}
        properties = {name: _closed(inner, known.get(name)) for name, inner in value.items()}
        return {"type": "object", "properties": properties, "additionalProperties": False}
    schema = _of(value)
    return _widened(schema) if guessed is not None else schema


def _widened(schema: dict[str, Any]) -> dict[str, Any]:
    if schema.get("type") == "array" and "items" in schema:
        return {"type": "array", "items": _widened(schema["items"])}
    return {"type": "number"} if schema.get("type") == "integer" else schema


def _of(value: Any) -> dict[str, Any]:
    if isinstance(value, Mapping):
        return {"type": "object", "properties": {name: _of(inner) for name, inner in value.items()}}
    if isinstance(value, list):
        first = _of(value[0]) if value else {}
        return (
            {"type": "array", "items": first}
            if first and all(_of(item) == first for item in value)
            else {"type": "array"}
        )
    name = _TYPES.get(type(value))
    return {"type": name} if name else {}
