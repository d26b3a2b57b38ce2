"""A quick way to see that a value fits a JSON Schema, for the plain schemas that most are.

Checking with all of Draft 2020-12 takes many times as long as all else that is done with a run's parameters.
"""

from collections.abc import Callable, Container, Mapping
from typing import Any, Final, TypeAlias

from towline.requests.json_values import Json

__all__ = ["Acceptor", "acceptor"]

Acceptor: TypeAlias = Callable[[Json], bool]
"""Whether a value fits for certain; False: it does not, or a closer look is needed."""

# A whole number may be written 1.0; that one gets the closer look.
_TYPES: Final[Mapping[str, tuple[type, ...]]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
    "object": (dict,),
    "array": (list,),
}
_OBJECT: Final = frozenset({"type", "properties", "required", "additionalProperties"})
_ARRAY: Final = frozenset({"type", "items"})
# These demand nothing.
_NOTES: Final = frozenset({"$schema", "$comment", "title", "description", "default", "examples"})


def acceptor(schema: Any) -> Acceptor:
    """Make the acceptor of a valid schema; it accepts nothing where the schema has words it cannot read.

    Args:
        schema: As JSON: an object, true or false.
    """
    if schema is True:
        return _anything
    words = schema.keys() - _NOTES if isinstance(schema, dict) else None
    if words is None or not isinstance(schema.get("additionalProperties", True), bool):
        return _nothing
    if types := _types(schema):
        return _scalar(types)
    accepts: Acceptor = _nothing
    match schema.get("type"):
        case None if not words:
            accepts = _anything
        case "object" if words <= _OBJECT:
            accepts = _object(schema)
        case "array" if words <= _ARRAY:
            accepts = _array(acceptor(schema.get("items", True)))
    return accepts


def _anything(_: Json) -> bool:
    return True


def _nothing(_: Json) -> bool:
    return False


def _scalar(types: Container[type]) -> Acceptor:
    return lambda value: type(value) in types  # exactly: a bool is no int here


def _types(schema: Any) -> tuple[type, ...]:
    """Return types of which every value fits; none where a schema asks for more than a type."""
    if not isinstance(schema, dict) or schema.keys() - _NOTES != {"type"}:
        return ()
    name = schema["type"]
    return _TYPES[name] if isinstance(name, str) else ()


def _object(schema: Mapping[str, Any]) -> Acceptor:
    known = {key: acceptor(each) for key, each in schema.get("properties", {}).items()}
    # To look at a type is faster than to call what does.
    types = {key: _types(each) for key, each in schema.get("properties", {}).items()}
    other = _anything if schema.get("additionalProperties", True) else _nothing
    required = frozenset(schema.get("required", ()))

    def accepts(value: Json) -> bool:
        if type(value) is not dict or not required <= value.keys():
            return False
        for key, each in value.items():
            if type(each) not in types.get(key, ()) and not known.get(key, other)(each):
                return False
        return True

    return accepts


def _array(each_fits: Acceptor) -> Acceptor:
    return lambda value: type(value) is list and all(map(each_fits, value))
