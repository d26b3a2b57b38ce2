"""The quick check of JSON Schemas says yes only where the whole check does."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from towline.requests.schema_acceptors import acceptor

KEYS = st.sampled_from(["a", "b", "c"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)
TYPES = st.sampled_from(["string", "integer", "number", "boolean", "null", "object", "array"])


def _schemas(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    words = {
        "type": TYPES | st.lists(TYPES, min_size=1, max_size=2, unique=True),
        "properties": st.dictionaries(KEYS, inner, max_size=3),
        "required": st.lists(KEYS, max_size=2, unique=True),
        "additionalProperties": st.booleans() | inner,
        "items": inner,
        "minimum": st.integers(-2, 2),
        "enum": st.lists(VALUES, min_size=1, max_size=2),
        "title": st.just("t"),
    }
    return st.fixed_dictionaries({}, optional=words)


SCHEMAS = st.recursive(st.booleans() | st.fixed_dictionaries({}, optional={"type": TYPES}), _schemas)


@given(SCHEMAS, VALUES)
def test_what_is_accepted_fits(schema: Any, value: Any) -> None:
    if acceptor(schema)(value):
        assert Draft202012Validator(schema).is_valid(value)


PLAIN = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "properties": {
        "lr": {"type": "number"},
        "epochs": {"type": "integer", "description": "how many"},
        "amp": {"type": "boolean"},
        "note": {},
        "layers": {"type": "array", "items": {"type": "integer"}},
        "model": {"type": "object", "properties": {"act": {"type": "string"}}, "additionalProperties": False},
    },
    "required": ["lr"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("value", "fits"),
    [
        ({"lr": 1}, True),
        (
            {"lr": 0.5, "epochs": 3, "amp": True, "note": [None], "layers": [1, 2], "model": {"act": "x"}},
            True,
        ),
        ({}, False),
        ({"lr": True}, False),
        ({"lr": 1, "epochs": True}, False),
        ({"lr": 1, "layers": [1, "2"]}, False),
        ({"lr": 1, "model": {"act": "x", "more": 1}}, False),
        ({"lr": 1, "other": 1}, False),
        ([], False),
    ],
)
def test_plain_schemas_are_decided_quickly(value: Any, fits: bool) -> None:
    assert acceptor(PLAIN)(value) is fits
    assert Draft202012Validator(PLAIN).is_valid(value) is fits
