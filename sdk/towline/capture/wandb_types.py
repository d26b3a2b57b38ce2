"""W&B's types of parameters and results as JSON Schemas (Draft 2020-12): decisions only, no I/O."""

from collections.abc import Callable, Mapping
from typing import Any, Final

__all__ = ["is_empty", "schema_of"]

_SIMPLE: Final[Mapping[str, dict[str, Any]]] = {
    "number": {"type": "number"},
    "string": {"type": "string"},
    "boolean": {"type": "boolean"},
    "none": {"type": "null"},
    "any": {},
    "unknown": {},
    # Dates are written as text or as seconds.
    "timestamp": {"type": ["string", "number"]},
    "list": {"type": "array"},
    "ndarray": {"type": "array"},
}
_MOST_LEVELS: Final = 60

Unknown = Callable[[str, str], None]
"""Called with the place and the name of a type that has no schema."""


def is_empty(kind: Any) -> bool:
    """Whether a type says nothing of any key: W&B writes it so where no run has told its config."""
    return isinstance(kind, dict) and not (kind.get("params") or {}).get("type_map")


def schema_of(kind: Any, place: str, unknown: Unknown) -> dict[str, Any]:
    """Translate one of W&B's types, such as {"wb_type": "number"}.

    Dictionaries take the keys they had and no others, and need none of them: the program has its own values.

    Args:
        kind: The type, as JSON.
        place: Where it stands, such as "input_types.lr", for messages.
        unknown: Told of types that have no schema, such as W&B's media: they take anything.

    Raises:
        ValueError: It is no type of W&B; the message begins with the place.
    """
    return _schema(kind, place, unknown, 0)


def _schema(kind: Any, place: str, unknown: Unknown, level: int) -> dict[str, Any]:
    if level > _MOST_LEVELS:
        raise ValueError(f"{place}: nests deeper than {_MOST_LEVELS}")
    if not isinstance(kind, dict) or not isinstance(kind.get("wb_type"), str):
        raise ValueError(f'{place}: is no type of W&B, which is an object with "wb_type"')
    name, params = kind["wb_type"], kind.get("params") or {}
    if not isinstance(params, dict):
        raise ValueError(f"{place}.params: must be an object")
    match name:
        case "typedDict" | "dictionary":
            return _object(params, place, unknown, level)
        case "list" if params.get("element_type") is not None:
            items = _schema(params["element_type"], f"{place}[]", unknown, level + 1)
            return {"type": "array", "items": items}
        case "union":
            return _union(params, place, unknown, level)
        case "const":
            return _constant(params, place)
    if name not in _SIMPLE:
        unknown(place, name)
    return dict(_SIMPLE.get(name, {}))


def _object(params: Mapping[str, Any], place: str, unknown: Unknown, level: int) -> dict[str, Any]:
    members = params.get("type_map", {})
    if not isinstance(members, dict):
        raise ValueError(f"{place}.params.type_map: must be an object")
    return {
        "type": "object",
        "properties": {
            key: _schema(member, f"{place}.{key}", unknown, level + 1) for key, member in members.items()
        },
        "additionalProperties": False,
    }


def _constant(params: Mapping[str, Any], place: str) -> dict[str, Any]:
    value = params.get("val")
    if not params.get("is_set"):
        return {"const": value}
    if not isinstance(value, list):
        raise ValueError(f"{place}.params.val: must be a list, for it is a set")
    return {"enum": value}


def _union(params: Mapping[str, Any], place: str, unknown: Unknown, level: int) -> dict[str, Any]:
    allowed = params.get("allowed_types")
    if not isinstance(allowed, list) or not allowed:
        raise ValueError(f"{place}.params.allowed_types: must be a list of types")
    options = [_schema(each, place, unknown, level + 1) for each in allowed]
    return options[0] if len(options) == 1 else {"anyOf": options}
