"""JSON as Towline takes it: read as the standard library reads it, however fast; written compactly."""

import json
import math
from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from towline.requests.json_values import dump, parse, parse_flat_objects

DEEPEST = 64


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) != len(pairs):
        raise ValueError("twice")
    return dict(pairs)


def finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError("out of range")
    return value


def depth(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max(map(depth, inner)) if inner else 0


def read_slowly(text: str) -> Any:
    """Read by the rules, with the standard library alone."""
    value = json.loads(text, object_pairs_hook=once, parse_float=finite, parse_constant=finite)
    if depth(value) > DEEPEST:
        raise ValueError("deep")
    json.dumps(value, ensure_ascii=False).encode()  # no lone surrogate
    return value


def told(read: Any, text: str) -> str | None:
    """Say what is read, with the types of all numbers and the order of keys; None: it is refused."""
    try:
        return repr(read(text))
    except (ValueError, RecursionError):
        return None


numbers = st.one_of(
    st.integers(),
    st.integers(min_value=2**62, max_value=2**65).flatmap(lambda n: st.sampled_from([n, -n])),
    st.floats(allow_nan=False, allow_infinity=False),
)
values = st.recursive(
    st.none() | st.booleans() | numbers | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
written = st.one_of(
    st.builds(json.dumps, values),
    st.builds(lambda value: json.dumps(value, ensure_ascii=False, separators=(",", ":")), values),
    st.builds(lambda value: json.dumps(value, indent=1), values),
    st.builds(lambda value: orjson.dumps(value).decode(), st.dictionaries(st.text(), st.floats())),
)
# Pieces that two readers may take differently, put together at random.
pieces = st.sampled_from(
    [
        *'{}[],:" \n\t\x0b\x00é\ufeff\ud800',
        *('"a"', '"a":', '"b":', '"\\u0061":', '{"a":', "null", "true", "NaN", "-Infinity"),
        *("-0", "-0.0", "1.0", "1e5", "1E400", "01", "5e-324", "1e-05"),
        *("18446744073709551616", "9223372036854775808"),
        *('"\\ud800"', '"\\ud83d\\ude00"', '"\\/"', '"\x7f"', '"\x01"'),
    ]
)
spliced = st.builds("".join, st.lists(pieces, max_size=9))
objects = st.builds(
    lambda parts: "{" + ",".join(parts) + "}", st.lists(st.builds("".join, st.lists(pieces, max_size=3)))
)


@given(st.one_of(written, spliced, objects))
@example('{"a":1,"a":1}')
@example('{"a":1,"\\u0061":1}')
@example('{"a":{"b":1,"b":2}}')
@example('{"a":18446744073709551616}')
@example('{"a":18446744073709551615}')
@example('{"a":-9223372036854775809}')
@example('{"a":-0}')
@example('{"a":1e400}')
@example('{"a":"\\ud800"}')
@example('{"a":"\ud800"}')
@example('\ufeff{"a":1}')
@example("[" * 64 + "]" * 64)
@example("[" * 65 + "]" * 65)
@example("[" * 300 + "]" * 300)
@example("[" * 100_000)
@example("[" + "[]," * 100 + "{}]")
@example('{"a":' * 65 + "1" + "}" * 65)
def test_what_is_read_is_what_the_standard_library_reads_and_no_more(text: str) -> None:
    assert told(parse, text) == told(read_slowly, text)


flat = st.builds(
    lambda value: orjson.dumps(value).decode(),
    st.dictionaries(st.text(max_size=3), st.one_of(st.text(max_size=3), st.booleans(), st.integers(0, 9))),
)


@given(st.lists(st.one_of(flat, spliced, objects), min_size=1, max_size=4))
@example(['{"a":1},{"b":2}', '{"c":"', '"}'])
@example(['{"a":"', '{"}'])
@example(['{"a":"}', '{","b":1}', '{"c":1},{}'])
@example(['{"a":1}', "", '{"a":1},{}'])
@example(['{"a":1}]', '{"b":2}'])
@example([' {"a":1}', '{"b":2}'])
@example(['{"a":1', '"b":1}'])
@example(['{"a":1,"a":1}'])
def test_what_is_read_together_is_what_is_read_one_by_one(texts: list[str]) -> None:
    together = parse_flat_objects(texts)
    assert together is None or together == [parse(text) for text in texts]


@given(st.lists(flat, min_size=1))
def test_flat_objects_are_read_together(texts: list[str]) -> None:
    brackets = "".join(texts).count("[") + "".join(texts).count("{") - len(texts)
    assert brackets or parse_flat_objects(texts) is not None


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"a":1,"a":2}', "has the key 'a' twice"),
        ('{"a":NaN}', "NaN is no number"),
        ('{"a":1e999}', "out of range"),
        ('{"a":"\\udc00"}', "half of a surrogate pair"),
        ('{"a" 1}', "is not JSON: .* column 6"),
        ("[" * 66 + "]" * 66, "nests deeper than 64"),
        ("", "is not JSON"),
    ],
)
def test_what_is_wrong_is_told(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        parse(text)


@given(values)
@example({"a": 2**64, "b": [None, "null"], "c": 1e-05})
def test_what_is_written_reads_back_equal_and_is_compact(value: Any) -> None:
    text = dump(value)
    assert repr(json.loads(text)) == repr(value)
    assert len(text) <= len(json.dumps(value, ensure_ascii=False, separators=(",", ":")))


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_not_written(number: float) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        dump({"a": [None, number]})
