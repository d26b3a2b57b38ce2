"""Defaults that a JSON Schema has for what is left out of a value."""

from collections.abc import Mapping
from typing import Any, Final

from referencing import Registry
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

from towline.requests.json_values import Json

__all__ = ["SchemaDefaults", "TooManyDefaults"]

# Schemas that refer to themselves can have defaults without end. What was given takes a few steps for each
# object and list in it.
_MOST_STEPS: Final = 20_000
_STEPS_EACH: Final = 8
_MOST_DEPTH: Final = 64


class TooManyDefaults(Exception):
    """A schema's defaults have defaults, and so on."""


class SchemaDefaults:
    """What `default` says for properties that are absent, at any depth.

    Read are `properties`, `items`, `prefixItems`, `allOf`, `$ref` within the schema, and of `anyOf` and
    `oneOf` the one schema that is for an object, or a list, as in "a model or null". What else only may
    apply (`if`, `anyOf` with several such schemas, and so on) fills in nothing.

    Args:
        schema: A valid schema of Draft 2020-12.
    """

    def __init__(self, schema: Any) -> None:
        self._schema = schema
        self._resolver = Registry().with_resource("", DRAFT202012.create_resource(schema)).resolver()
        self._referred: dict[str, Any] = {}
        self.any = _has_default(schema)
        """Whether there may be something to fill in."""

    def filled(self, value: Json) -> Json:
        """Return the value with its defaults; the same object where nothing is filled in.

        Raises:
            TooManyDefaults: They do not end within bounds.
        """
        return _Filling(self, _MOST_STEPS + _STEPS_EACH * _containers(value)).fill(self._schema, value, 0)

    def referred(self, reference: str) -> Any:
        """Return the schema that a `$ref` names; True, which demands nothing, where there is none."""
        if reference not in self._referred:
            try:
                self._referred[reference] = self._resolver.lookup(reference).contents
            except Unresolvable:  # checking the value tells it
                self._referred[reference] = True
        return self._referred[reference]


class _Filling:
    """One walk through a value."""

    def __init__(self, defaults: SchemaDefaults, most_steps: int) -> None:
        self._defaults = defaults
        self._steps = most_steps

    def fill(self, schema: Any, value: Json, depth: int) -> Json:
        if not isinstance(schema, dict) or not isinstance(value, dict | list):
            return value
        self._step(depth)
        for part in [*self._same_place(schema), *self._meant(schema, value)]:
            value = self.fill(part, value, depth + 1)
        if isinstance(value, list):
            return self._fill_list(schema, value, depth)
        if isinstance(value, dict):
            return self._fill_object(schema, value, depth)
        return value

    def _step(self, depth: int) -> None:
        self._steps -= 1
        if self._steps < 0 or depth > _MOST_DEPTH:
            raise TooManyDefaults

    def _same_place(self, schema: Mapping[str, Any]) -> list[Any]:
        """Return the schemas that the value must fit too."""
        parts = list(schema.get("allOf", ()))
        if isinstance(reference := schema.get("$ref"), str):
            parts.append(self._defaults.referred(reference))
        return parts

    def _meant(self, schema: Mapping[str, Any], value: dict[str, Json] | list[Json]) -> list[Any]:
        """Return the schemas of choices that can only be meant for such a value."""
        kind = "object" if isinstance(value, dict) else "array"
        meant = []
        for choices in (schema.get("anyOf", ()), schema.get("oneOf", ())):
            fitting = [choice for choice in choices if self._may_be(choice, kind)]
            meant += fitting if len(fitting) == 1 else []
        return meant

    def _may_be(self, schema: Any, kind: str) -> bool:
        if isinstance(schema, dict) and "type" not in schema and isinstance(schema.get("$ref"), str):
            schema = self._defaults.referred(schema["$ref"])
        kinds = schema.get("type", kind) if isinstance(schema, dict) else kind
        return kind in ([kinds] if isinstance(kinds, str) else kinds)

    def _fill_object(self, schema: Mapping[str, Any], value: dict[str, Json], depth: int) -> dict[str, Json]:
        changes: dict[str, Json] = {}
        for key, inner in schema.get("properties", {}).items():
            if key in value:
                before = value[key]
            elif (found := self._default(inner, depth + 1)) is not None:
                (before,) = found
            else:
                continue
            after = self.fill(inner, before, depth + 1)
            if key not in value or after is not before:
                changes[key] = after
        return value | changes if changes else value

    def _fill_list(self, schema: Mapping[str, Any], value: list[Json], depth: int) -> list[Json]:
        first = schema.get("prefixItems", [])
        rest = schema.get("items", True)
        filled = [
            self.fill(first[index] if index < len(first) else rest, item, depth + 1)
            for index, item in enumerate(value)
        ]
        changed = any(after is not before for after, before in zip(filled, value, strict=True))
        return filled if changed else value

    def _default(self, schema: Any, depth: int) -> tuple[Json] | None:
        """Return what stands for an absent value; the schema's own word before that of what it refers to."""
        if not isinstance(schema, dict):
            return None
        self._step(depth)
        if "default" in schema:
            return (schema["default"],)
        for part in self._same_place(schema):
            if (found := self._default(part, depth + 1)) is not None:
                return found
        return None


def _containers(value: Json) -> int:
    """Count the objects and lists in a value."""
    if not isinstance(value, dict | list):
        return 0
    inner = value.values() if isinstance(value, dict) else value
    return 1 + sum(map(_containers, inner))


def _has_default(schema: Any) -> bool:
    if isinstance(schema, dict):
        return "default" in schema or any(map(_has_default, schema.values()))
    return isinstance(schema, list) and any(map(_has_default, schema))
