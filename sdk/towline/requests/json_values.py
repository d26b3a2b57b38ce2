"""JSON as Towline takes it: strict, bounded, and written so that every number comes back as it was."""

import json
import math
from collections.abc import Sequence
from typing import Final, Never, TypeAlias

import orjson

__all__ = ["Json", "dump", "parse", "parse_flat_objects"]

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"

_MAX_DEPTH: Final = 64


def parse(text: str) -> Json:
    """Read one JSON text.

    Raises:
        ValueError: It is not JSON as RFC 8259 has it (NaN, Infinity and numbers out of range are not),
            an object has a key twice, it nests deeper than 64, or a string is no Unicode text.
    """
    value: Json
    try:
        value = orjson.loads(text)
        # orjson takes a key that comes twice, and keeps no number past 64 bits. It writes neither: a text
        # that it writes as it stands has none, and means what it means to any other reader.
        if orjson.dumps(value) == text.encode():
            nests = "[" in text or text.find("{", 1) >= 0
            return _checked(value) if nests and not _is_shallow(text) else value
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):
        pass  # it is wrong, which is said below, or nests as deep as only a reader without recursion can
    try:
        value = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"is not JSON: {error.msg} (line {error.lineno}, column {error.colno})") from None
    except RecursionError:
        raise ValueError(f"nests deeper than {_MAX_DEPTH}") from None
    # Most texts cannot hold what is looked for: they have no such characters, and too few brackets.
    return value if text.isascii() and "\\u" not in text and _is_shallow(text) else _checked(value)


def parse_flat_objects(texts: Sequence[str]) -> list[dict[str, Json]] | None:
    """Read the texts of objects that hold neither objects nor lists, all at once; else as `parse` does.

    Returns:
        The objects; None where one may be none of these, or wrong: each is to be read by itself.
    """
    text = f"[{','.join(texts)}]"
    count = len(texts)
    if text.count("{") != count or text.count("[") != 1:
        return None
    try:
        values: list[dict[str, Json]] = orjson.loads(text)
        if len(values) != count or orjson.dumps(values) != text.encode():
            return None
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):
        return None
    # There are as many braces that open as objects, so none is in a string; each text begins with one, so
    # each object begins where a text does, and is that text.
    alone = all(type(value) is dict for value in values) and all(each[:1] == "{" for each in texts)
    return values if alone else None


def dump(value: Json) -> str:
    """Write a value as compact JSON, keys in their order, numbers so that they read back equal."""
    try:
        written = orjson.dumps(value)
    except orjson.JSONEncodeError:  # a number past 64 bits, a string that is no Unicode text, or it is deep
        return _ENCODER.encode(value)
    # It writes null for NaN, which is an error.
    return _ENCODER.encode(value) if b"null" in written else written.decode()


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


def _is_shallow(text: str) -> bool:
    """Tell whether a text has too few brackets to nest too deep."""
    return text.count("[") + text.count("{") <= _MAX_DEPTH


def _checked(root: Json) -> Json:
    """Return a value that does not nest too deep and has no lone surrogates; without recursion."""
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
            return root
        level = deeper
    raise ValueError(f"nests deeper than {_MAX_DEPTH}")


def _check_text(text: str) -> None:
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError("holds half of a surrogate pair, which is no Unicode text")
