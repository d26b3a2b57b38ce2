"""JSON objects as requests carry them: strict reading, one canonical form."""

import json
import math
from typing import Any, Final, NoReturn

from towline.errors import InvalidArgument

__all__ = ["MAX_BYTES", "JsonObject", "canonical", "read"]

JsonObject = dict[str, Any]

MAX_BYTES: Final = 1024 * 1024
MAX_DEPTH: Final = 64


def read(text: str, field: str) -> JsonObject:
    """Read the text of a JSON object as RFC 8259 has it, which Python's reader takes further.

    Raises:
        InvalidArgument: It is larger than 1 MiB or nested deeper than 64, no JSON, no object, names a
            key twice, or holds NaN, an infinity, or half a surrogate pair; names `field`.
    """
    if len(text.encode()) > MAX_BYTES:
        raise InvalidArgument.field(field, f"it is larger than {MAX_BYTES} bytes")
    try:
        value = json.loads(
            text, parse_constant=_refuse, parse_float=_finite, object_pairs_hook=_without_repetition
        )
    except (ValueError, RecursionError) as error:
        problem = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise InvalidArgument.field(field, f"this is not JSON: {problem}") from None
    if not isinstance(value, dict):
        raise InvalidArgument.field(field, 'a JSON object is wanted, such as {"epochs": 3}')
    _check_values(value, field)
    return value


def canonical(value: JsonObject) -> str:
    """Write a value so that equal values are equal texts: keys sorted, no white space."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a JSON number")


def _finite(number: str) -> float:
    value = float(number)
    if not math.isfinite(value):
        raise ValueError(f"{number} is too large for a number")
    return value


def _without_repetition(pairs: list[tuple[str, Any]]) -> JsonObject:
    made = dict(pairs)
    if len(made) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice!r} comes twice")
    return made


def _check_values(value: JsonObject, field: str) -> None:
    waiting: list[tuple[Any, int]] = [(value, 1)]
    while waiting:
        item, depth = waiting.pop()
        if depth > MAX_DEPTH:
            raise InvalidArgument.field(field, f"it is nested deeper than {MAX_DEPTH}")
        match item:
            case dict():
                waiting += [(each, depth + 1) for pair in item.items() for each in pair]
            case list():
                waiting += [(each, depth + 1) for each in item]
            case str() if any("\ud800" <= character <= "\udfff" for character in item):
                raise InvalidArgument.field(field, "half a surrogate pair (\\ud800-\\udfff) is not text")
