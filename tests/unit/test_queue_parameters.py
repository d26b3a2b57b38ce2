"""Parameters: defaults, overrides, and everything that can be wrong with them."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from towline.errors import InvalidArgument
from towline.requests.violations import Violations
from towline_queue.core.parameters import MAX_BYTES, Parameters, merge

DEFAULTS = {"lr": 0.1, "epochs": 3, "name": "a", "amp": False, "model": {"layers": [8, 8, 8], "act": "relu"}}
SCHEMA = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "lr": {"type": "number", "exclusiveMinimum": 0},
        "epochs": {"type": "integer", "minimum": 1, "maximum": 100},
        "name": {"type": "string", "pattern": "^[a-z]+$"},
        "amp": {"type": "boolean"},
        "model": {
            "type": "object",
            "additionalProperties": False,
            "required": ["act"],
            "properties": {
                "layers": {"type": "array", "items": {"type": "integer"}},
                "act": {"enum": ["relu", "gelu"]},
            },
        },
    },
}


def parameters() -> Parameters:
    return Parameters(json.dumps(DEFAULTS), json.dumps(SCHEMA))


def problems(overrides: str, prefix: str = "") -> dict[str, str]:
    with pytest.raises(InvalidArgument) as caught:
        parameters().resolve(overrides, prefix)
    assert caught.value.reason == "INVALID_CONFIG"
    return caught.value.metadata


def test_nothing_given_is_the_defaults() -> None:
    assert json.loads(parameters().resolve("")) == DEFAULTS
    assert Parameters("", "").resolve("") == "{}"


def test_objects_merge_and_all_else_replaces() -> None:
    config = json.loads(parameters().resolve('{"model": {"layers": [1]}, "lr": 0.5}'))
    assert config == DEFAULTS | {"lr": 0.5, "model": {"layers": [1], "act": "relu"}}


def test_numbers_come_back_as_they_were() -> None:
    free = Parameters('{"whole": 1, "real": 1.0}', "")
    text = free.resolve('{"big": 123456789012345678901234567890, "small": 5e-324, "tenth": 0.1}')
    assert text == ('{"whole":1,"real":1.0,"big":123456789012345678901234567890,"small":5e-324,"tenth":0.1}')


@pytest.mark.parametrize(
    ("overrides", "path", "problem"),
    [
        ({"lrr": 1}, "lrr", "did you mean 'lr'?"),
        ({"zzz": 1}, "zzz", "known are lr, epochs"),
        ({"a b": 1}, '"a b"', "unknown key"),
        ({"lr": "x"}, "lr", 'must be a number, not "x"'),
        ({"lr": 0}, "lr", "must be more than 0"),
        ({"epochs": 1.5}, "epochs", "must be a whole number, not 1.5"),
        ({"epochs": True}, "epochs", "must be a whole number, not true"),
        ({"epochs": 0}, "epochs", "must be at least 1"),
        ({"epochs": 101}, "epochs", "must be at most 100"),
        ({"name": "A"}, "name", "must match"),
        ({"amp": None}, "amp", "must be true or false, not null"),
        ({"model": 3}, "model", "must be an object"),
        ({"model": {"act": "tanh"}}, "model.act", 'must be one of "relu", "gelu"'),
        ({"model": {"layers": [1, 2, "x"]}}, "model.layers[2]", "must be a whole number"),
        ({"model": {"layer": 1}}, "model.layer", "did you mean 'layers'?"),
    ],
)
def test_a_violation_names_its_path(overrides: dict[str, Any], path: str, problem: str) -> None:
    found = problems(json.dumps(overrides))
    assert set(found) == {path}
    assert problem in found[path]


def test_all_violations_come_at_once_and_say_where() -> None:
    found = problems('{"lrr": 1, "epochs": "x", "model": {"layers": ["a", "b"]}}', "runs[3].")
    assert set(found) == {
        "runs[3].lrr",
        "runs[3].epochs",
        "runs[3].model.layers[0]",
        "runs[3].model.layers[1]",
    }


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("x", {"seed": 'must be a whole number or null, not "x"'}),
        (
            {"depth": "x", "wide": 1},
            {"seed.depth": 'must be a whole number, not "x"', "seed.wide": "unknown key"},
        ),
    ],
)
def test_what_may_be_of_several_kinds_is_explained_by_the_one_it_is_meant_for(
    given: Any, expected: dict[str, str]
) -> None:
    model = {
        "type": "object",
        "properties": {"depth": {"type": "integer"}},
        "additionalProperties": False,
    }
    other = {"type": "integer"} if given == "x" else model
    schema = {"properties": {"seed": {"anyOf": [other, {"type": "null"}]}}}
    with pytest.raises(InvalidArgument) as caught:
        Parameters("{}", json.dumps(schema)).resolve(json.dumps({"seed": given}))
    found = caught.value.metadata
    assert found.keys() == expected.keys()
    assert all(found[path].startswith(problem) for path, problem in expected.items())


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "is not JSON"),
        ("lr: 1", "is not JSON"),
        ("[1]", "must be an object"),
        ("null", "must be an object"),
        ('{"lr": NaN}', "NaN"),
        ('{"lr": -Infinity}', "Infinity"),
        ('{"lr": 1e999}', "out of range"),
        ('{"lr": 1, "lr": 2}', "twice"),
        ('{"lr":' + "[" * 100_000, "nests deeper"),
        ('{"lr":' + "[" * 70 + "]" * 70 + "}", "nests deeper"),
        ('{"name": "\\ud800"}', "surrogate"),
        ('{"lr": ' + "9" * 5000 + "}", "digits"),
        ('{"name": "' + "a" * MAX_BYTES + '"}', "larger than"),
    ],
)
def test_text_that_cannot_be_parameters_is_refused(text: str, problem: str) -> None:
    assert problem in problems(text)["config_json"]


def test_a_schema_may_not_make_the_service_fetch_anything() -> None:
    far = Parameters("{}", '{"$ref": "http://127.0.0.1:1/schema.json"}')
    with pytest.raises(InvalidArgument, match="schema is broken"):
        far.resolve("{}")


@pytest.mark.parametrize("schema", ["{", '{"type": 3}', "[]"])
def test_a_broken_schema_is_a_value_error(schema: str) -> None:
    with pytest.raises(ValueError, match="JSON"):
        Parameters("{}", schema)


def test_an_error_stays_small_enough_to_travel() -> None:
    found = Violations("INVALID_CONFIG")
    for number in range(1000):
        found.add(f"key{number}", "x" * 1000)
    with pytest.raises(InvalidArgument, match=r"and 9\d\d more") as caught:
        found.check()
    assert len(caught.value.message) < 3000
    assert "key0" in caught.value.metadata


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=10,
)
objects = st.dictionaries(st.sampled_from("abc"), json_values, max_size=3)


@given(objects, objects)
def test_merging_keeps_what_is_not_overridden_and_takes_what_is(
    defaults: dict[str, Any], overrides: dict[str, Any]
) -> None:
    merged = merge(defaults, overrides)
    assert isinstance(merged, dict)
    assert set(merged) == set(defaults) | set(overrides)
    for key, value in merged.items():
        if key not in overrides:
            assert value == defaults[key]
        elif not (isinstance(defaults.get(key), dict) and isinstance(overrides[key], dict)):
            assert value == overrides[key]
    assert merge(merged, overrides) == merged


@given(objects)
def test_any_object_survives_the_round_trip(value: dict[str, Any]) -> None:
    again = json.loads(Parameters("{}", "").resolve(json.dumps(value)))
    assert again == value
    assert json.dumps(again, sort_keys=True) == json.dumps(value, sort_keys=True)
