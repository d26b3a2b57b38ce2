"""JSON Schema (Draft 2020-12): violations as people understand them."""

import difflib
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError, ValidationError
from referencing import Registry
from referencing.exceptions import Unresolvable

from towline.requests.json_values import Json, dump, parse
from towline.requests.schema_acceptors import acceptor

__all__ = ["Schema"]

_TYPES: Final = {
    "string": "text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "object": "an object",
    "array": "a list",
    "null": "null",
}


class Schema:
    """A checked JSON Schema.

    Args:
        text: The schema as JSON.

    Raises:
        ValueError: It is no valid schema of Draft 2020-12.
    """

    def __init__(self, text: str) -> None:
        schema: Any = parse(text)
        if not isinstance(schema, dict | bool):
            raise ValueError("is no JSON Schema: it must be an object")
        try:
            Draft202012Validator.check_schema(schema)
        except SchemaError as error:
            raise ValueError(f"is no JSON Schema (Draft 2020-12): {_brief(error)}") from None
        # An empty registry: a schema from outside must not make the service fetch anything.
        self._validator = Draft202012Validator(schema, registry=Registry())
        self.accepts = acceptor(schema)
        """Whether a value fits, seen quickly; False: `violations` tells."""

    def violations(self, value: Json) -> Iterator[tuple[str | None, str]]:
        """Give (path, problem) for all that the schema forbids in `value`.

        The path of the root is ""; None where the schema itself is broken in a way that only shows in use.
        """
        try:
            errors = list(self._validator.iter_errors(value))
        except (Unresolvable, RecursionError, OverflowError, re.error) as defect:
            yield None, f"cannot be checked: the schema is broken ({defect})"
            return
        for error in errors:
            yield from _explain(error)


def _explain(error: ValidationError) -> Iterator[tuple[str, str]]:
    path = _path(error)
    expected: Any = error.validator_value
    match error.validator:
        case "additionalProperties" | "unevaluatedProperties" if isinstance(error.instance, dict):
            known = _properties(error)
            for key in _unknown_keys(error, known):
                yield _join(path, key), f"unknown key{_suggestion(key, known)}"
        case "required" if isinstance(error.instance, dict):
            missing = [key for key in expected if key not in error.instance]
            for key in missing:
                yield _join(path, key), "is missing"
        case "type":
            kinds = [expected] if isinstance(expected, str) else expected
            wanted = " or ".join(_TYPES.get(kind, kind) for kind in kinds)
            yield path, f"must be {wanted}, not {_shown(error.instance)}"
        case "enum":
            allowed = ", ".join(map(_shown, expected))
            yield path, f"must be one of {allowed}, not {_shown(error.instance)}"
        case "const":
            yield path, f"must be {_shown(expected)}, not {_shown(error.instance)}"
        case "minimum" | "exclusiveMinimum" | "maximum" | "exclusiveMaximum":
            bound = {
                "minimum": "at least",
                "exclusiveMinimum": "more than",
                "maximum": "at most",
                "exclusiveMaximum": "less than",
            }[error.validator]
            yield path, f"must be {bound} {expected}, not {_shown(error.instance)}"
        case "pattern":
            yield path, f"must match {expected}, unlike {_shown(error.instance)}"
        case _:
            yield path, _brief(error)


def _properties(error: ValidationError) -> Mapping[str, object]:
    schema = error.schema
    properties = schema.get("properties", {}) if isinstance(schema, dict) else {}
    return properties if isinstance(properties, dict) else {}


def _unknown_keys(error: ValidationError, known: Mapping[str, object]) -> list[str]:
    schema: Any = error.schema
    patterns = schema.get("patternProperties", {}) if isinstance(schema, dict) else {}
    instance: Any = error.instance
    return [key for key in instance if key not in known and not any(re.search(p, key) for p in patterns)]


def _suggestion(key: str, known: Mapping[str, object]) -> str:
    if close := difflib.get_close_matches(key, known, n=1):
        return f"; did you mean {close[0]!r}?"
    if not known:
        return "; none is allowed here"
    some = ", ".join(list(known)[:8])
    return f"; known are {some}{', …' if len(known) > 8 else ''}"


def _path(error: ValidationError) -> str:
    path = ""
    for part in error.absolute_path:
        path = f"{path}[{part}]" if isinstance(part, int) else _join(path, part)
    return path


def _join(path: str, key: str) -> str:
    if not re.fullmatch(r"[^\s.\[\]\"]{1,128}", key):
        key = json.dumps(key[:128], ensure_ascii=False)
    return f"{path}.{key}" if path else key


def _shown(value: Any) -> str:
    text = dump(value)
    return text if len(text) <= 60 else f"{text[:59]}…"


def _brief(error: ValidationError | SchemaError) -> str:
    return error.message if len(error.message) <= 200 else f"{error.message[:199]}…"
