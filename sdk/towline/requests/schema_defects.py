"""What makes a text no JSON Schema of Draft 2020-12, or one that cannot stand alone."""

from collections.abc import Iterator
from itertools import islice
from typing import Any, Final

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError
from referencing import Registry, Resource
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

from towline.requests.json_values import dump

__all__ = ["broken_references", "defects"]

# Of errors in a schema, one may be told several times, by each part of the meta-schema.
_MOST_ERRORS: Final = 1000
_MOST_SHOWN: Final = 60
_TYPES: Final = ("array", "boolean", "integer", "null", "number", "object", "string")
_REFERENCES: Final = ("$ref", "$dynamicRef")
# Where schemas are in a schema.
_SCHEMA: Final = frozenset(
    {"additionalProperties", "contains", "contentSchema", "else", "if", "items", "not", "propertyNames"}
    | {"then", "unevaluatedItems", "unevaluatedProperties"}
)
_LIST_OF_SCHEMAS: Final = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
_SCHEMAS_BY_NAME: Final = frozenset(
    {"$defs", "definitions", "dependentSchemas", "patternProperties", "properties"}
)


def defects(schema: Any) -> Iterator[tuple[str, str]]:
    """Give (place, problem) for what is wrong in a schema, each place once; such as "properties.lr.type".

    Args:
        schema: As JSON.
    """
    found: dict[str, str] = {}
    meta = Draft202012Validator(
        Draft202012Validator.META_SCHEMA, format_checker=Draft202012Validator.FORMAT_CHECKER
    )
    try:
        for error in islice(meta.iter_errors(schema), _MOST_ERRORS):
            found.setdefault(_place(error.absolute_path), _explained(error))
    except RecursionError:
        found = {"": "nests too deep"}
    yield from found.items()


def broken_references(schema: Any) -> Iterator[tuple[str, str]]:
    """Give (place, problem) for references to what is not in a valid schema: nothing is ever fetched.

    Args:
        schema: As JSON; `defects` finds none in it.
    """
    # The walk is by hand, for `referencing` tells no places; it finds by a name what a validator does.
    resource = Resource.from_contents(schema, default_specification=DRAFT202012)
    root = Registry().with_resource("", resource).crawl().resolver_with_root(resource)
    waiting: list[tuple[tuple[str | int, ...], Any, Any]] = [((), schema, root)]
    while waiting:
        place, each, resolver = waiting.pop()
        if not isinstance(each, dict):
            continue
        if place:
            resolver = resolver.in_subresource(DRAFT202012.create_resource(each))
        for keyword in _REFERENCES:
            target = each.get(keyword)
            if isinstance(target, str):
                try:
                    resolver.lookup(target)
                except (Unresolvable, ValueError):
                    yield (
                        _place((*place, keyword)),
                        f"{_shown(target)} is not in this schema; put it below $defs and write #/$defs/NAME",
                    )
        waiting += [((*place, *inner), one, resolver) for inner, one in _subschemas(each)]


def _explained(error: ValidationError) -> str:
    keyword = error.absolute_path[-1] if error.absolute_path else None
    if error.validator == "anyOf" and keyword == "type":
        return f"{_shown(error.instance)} is no type; take {', '.join(_TYPES)} or a list of them"
    if error.validator == "format":
        return f"{_shown(error.instance)} is no {error.validator_value}"
    if error.validator == "type" and error.validator_value == ["object", "boolean"]:
        return f"{_shown(error.instance)} is no schema, which is an object"
    return error.message if len(error.message) <= 200 else f"{error.message[:199]}…"


def _subschemas(schema: dict[str, Any]) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    for keyword, value in schema.items():
        if keyword in _SCHEMA:
            yield (keyword,), value
        elif keyword in _LIST_OF_SCHEMAS:
            yield from (((keyword, index), each) for index, each in enumerate(value))
        elif keyword in _SCHEMAS_BY_NAME:
            yield from (((keyword, name), each) for name, each in value.items())


def _place(parts: Any) -> str:
    return ".".join(map(str, parts))


def _shown(value: Any) -> str:
    text = dump(value)
    return text if len(text) <= _MOST_SHOWN else f"{text[: _MOST_SHOWN - 1]}…"
