"""The schema that a config brings along: that of a pydantic model, which is not imported for it."""

import json
import warnings
from typing import Any, Final

__all__ = ["schema_of"]

_BY_NAME: Final = ("properties", "patternProperties", "$defs")
_SINGLE: Final = ("items", "additionalProperties")
_SEVERAL: Final = ("anyOf", "oneOf", "allOf", "prefixItems")


def schema_of(config: object) -> dict[str, Any] | None:
    """Give the JSON Schema of a pydantic model, by the names of its fields; None for what has none.

    Models take no keys but their own, unless they say that they do: a key with a typing error would else be
    dropped without a word.
    """
    make = getattr(type(config), "model_json_schema", None)
    if not callable(make):
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of defaults that JSON does not hold
            schema = make(by_alias=False)
        json.dumps(schema, allow_nan=False)
        return _closed(schema)
    except Exception:  # whatever the model's own code raises: the types of its values are recorded instead
        return None


def _closed(schema: dict[str, Any]) -> dict[str, Any]:
    result = dict(schema)
    for word in _BY_NAME:
        if isinstance(members := schema.get(word), dict):
            result[word] = {name: _inner(member) for name, member in members.items()}
    for word in _SINGLE:
        if word in schema:
            result[word] = _inner(schema[word])
    for word in _SEVERAL:
        if isinstance(members := schema.get(word), list):
            result[word] = [_inner(member) for member in members]
    if "properties" in schema:
        result.setdefault("additionalProperties", False)
    return result


def _inner(schema: Any) -> Any:
    return _closed(schema) if isinstance(schema, dict) else schema
