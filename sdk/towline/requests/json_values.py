"""JSON as Towline takes it: strict, bounded, and written so that every number comes back as it was."""

import json
import math
from typing import Final, Never, TypeAlias

__all__ = ["Json", "dump", "parse"]

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"

_MAX_DEPTH: Final = 64


def parse(text: str) -> Json:
    """Read one JSON text.

    Raises:
        ValueError: It is not JSON as RFC 8259 has it (NaN, Infinity and numbers out of range are not),
            an object has a key twice, it nests deeper than 64, or a string is no Unicode text.
    """
    try:
        value: Json
        value, end = _DECODER.raw_decode(text) if text.startswith("{") else (None, -1)
        if end != len(text):  # there is white space around it, or it is no object, or not JSON
            value = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"is not JSON: {error.msg} (line {error.lineno}, column {error.colno})") from None
    except RecursionError:
        raise ValueError(f"nests deeper than {_MAX_DEPTH}") from None
    # Most texts cannot hold what is looked for: they have no such characters, and too few brackets.
    if not text.isascii() or "\\u" in text or text.count("[") + text.count("{") > _MAX_DEPTH:
        _check(value)
    return value


def dump(value: Json) -> str:
    """Write a value as compact JSON, keys in their order, floats so that they read back equal."""
    return _ENCODER.encode(value)


def _no_constant(word: str) -> Never:
    raise ValueError(f"is not JSON: {word} is no number there")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"holds the number {text[:40]}, which is out of range")
    return value


def _unique_keys(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    result = dict(pairs)
    if len(result) != len(pairs):
        left = dict.fromkeys(result, 1)
        twice = next(key for key, _ in pairs if not left.pop(key, 0))
        raise ValueError(f"has the key {twice!r} twice in one object")
    return result


# Made once: json.loads and json.dumps make one for each call that has options.
_DECODER: Final = json.JSONDecoder(
    parse_constant=_no_constant, parse_float=_finite, object_pairs_hook=_unique_keys
)
_ENCODER: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _check(root: Json) -> None:
    """Refuse deep nesting and lone surrogates, without recursion."""
    level: list[Json] = [root]
    for _ in range(_MAX_DEPTH + 1):
        deeper: list[Json] = []
        for value in level:
            if isinstance(value, str):
                _check_text(value)
            elif isinstance(value, list):
                deeper.extend(value)
            elif isinstance(value, dict):
                for key in value:
                    _check_text(key)
                deeper.extend(value.values())
        if not deeper:
            return
        level = deeper
    raise ValueError(f"nests deeper than {_MAX_DEPTH}")


def _check_text(text: str) -> None:
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError("holds half of a surrogate pair, which is no Unicode text")
