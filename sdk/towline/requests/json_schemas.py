"""JSON Schema (Draft 2020-12): violations as people understand them."""

import difflib
import json
import re
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, Final

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError
from referencing import Registry
from referencing.exceptions import Unresolvable

from towline.requests.json_values import Json, dump, parse
from towline.requests.schema_acceptors import acceptor
from towline.requests.schema_defects import broken_references, defects

__all__ = ["Schema"]

# In one message, so that it stays readable.
_MOST_DEFECTS: Final = 10

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
        ValueError: It is no valid schema of Draft 2020-12; names the places.
    """

    def __init__(self, text: str) -> None:
        schema: Any = parse(text)
        if not isinstance(schema, dict | bool):
            raise ValueError("is no JSON Schema: it must be an object")
        _raise(defects(schema), "is no JSON Schema (Draft 2020-12)")
        self._schema = schema
        # An empty registry: a schema from outside must not make the service fetch anything.
        self._validator = Draft202012Validator(schema, registry=Registry())
        self.accepts = acceptor(schema)
        """Whether a value fits, seen quickly; False: `violations` tells."""

    def check_alone(self) -> None:
        """Check that it refers to nothing outside itself.

        Raises:
            ValueError: It does; names the places.
        """
        _raise(broken_references(self._schema), "refers to what is not in it")

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


def _raise(found: Iterator[tuple[str, str]], what: str) -> None:
    told = [f"{place}: {problem}" if place else problem for place, problem in islice(found, _MOST_DEFECTS)]
    if told:
        raise ValueError(f"{what}: {'; '.join(told)}")


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
            yield path, f"must be {_kinds(expected)}, not {_shown(error.instance)}"
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
        case "anyOf" | "oneOf" if error.context:
            yield from _explain_choice(error, path)
        case "pattern":
            yield path, f"must match {expected}, unlike {_shown(error.instance)}"
        case _:
            yield path, _brief(error)


def _explain_choice(error: ValidationError, path: str) -> Iterator[tuple[str, str]]:
    """Explain a value that fits none of some schemas: by the one it is meant for, if that can be told."""
    by_choice: dict[Any, list[ValidationError]] = {}
    for inner in error.context or ():
        by_choice.setdefault(inner.relative_schema_path[0], []).append(inner)
    other_type = [_of_other_type(errors) for errors in by_choice.values()]
    if all(kind is not None for kind in other_type):
        yield path, f"must be {_kinds([kind for kind in other_type if kind])}, not {_shown(error.instance)}"
    elif other_type.count(None) == 1:
        for inner in list(by_choice.values())[other_type.index(None)]:
            yield from _explain(inner)
    else:
        yield path, _brief(error)


def _of_other_type(errors: list[ValidationError]) -> str | None:
    """Return the type that a schema demands of a value which has another; None: that is not what is wrong."""
    for error in errors:
        if error.validator == "type" and not error.relative_path and isinstance(error.validator_value, str):
            return error.validator_value
    return None


def _kinds(expected: Any) -> str:
    kinds = [expected] if isinstance(expected, str) else expected
    return " or ".join(_TYPES.get(kind, kind) for kind in kinds)


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


def _brief(error: ValidationError) -> str:
    return error.message if len(error.message) <= 200 else f"{error.message[:199]}…"
