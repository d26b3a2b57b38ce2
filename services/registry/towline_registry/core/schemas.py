"""JSON Schemas (Draft 2020-12) of job parameters: derived from defaults, or given and checked."""

from collections.abc import Iterable
from typing import Any, Final

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError
from referencing import Registry
from referencing.exceptions import Unresolvable

from towline.errors import InvalidArgument
from towline_registry.core.json_objects import JsonObject

__all__ = ["check", "check_defaults", "derived"]

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
MAX_VIOLATIONS: Final = 5

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


def check(schema: JsonObject, field: str) -> None:
    """Check that `schema` is a schema of the draft that Towline uses; InvalidArgument names `field`."""
    if schema.get("$schema", DIALECT) not in (DIALECT, f"{DIALECT}#"):
        raise InvalidArgument.field(
            field, f'only Draft 2020-12 is taken; write "$schema": "{DIALECT}" or leave it'
        )
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        raise InvalidArgument.field(
            field, f"this is no JSON Schema: at {error.json_path}, {error.message}"
        ) from None


def check_defaults(schema: JsonObject, config: JsonObject, field: str) -> None:
    """Check that the defaults satisfy their schema; InvalidArgument names `field` and each violation."""
    # An empty registry: a schema may refer to its own parts, and never makes the service fetch a URL.
    validator = Draft202012Validator(schema, registry=Registry())
    try:
        violations = [
            f"{error.json_path}: {error.message}"
            for error, _ in zip(validator.iter_errors(config), range(MAX_VIOLATIONS), strict=False)
        ]
    except Unresolvable as error:
        raise InvalidArgument.field(
            "spec.input_schema_json", f"it refers to {error.ref!r}, which is not in it"
        ) from None
    except (RecursionError, OverflowError) as error:  # it refers to itself, or divides by next to nothing
        raise InvalidArgument.field("spec.input_schema_json", f"it cannot be checked: {error}") from None
    if violations:
        raise InvalidArgument.field(field, "the defaults do not fit their schema: " + "; ".join(violations))
