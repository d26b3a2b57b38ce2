"""Defaults that a job's schema has for parameters that nobody gave."""

import json
from typing import Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field

from towline.errors import InvalidArgument
from towline_queue.core.parameters import Parameters
from towline_queue.core.schema_defaults import SchemaDefaults, TooManyDefaults

OPTIMIZER = {
    "type": "object",
    "properties": {"name": {"default": "adam"}, "lr": {"type": "number", "default": 0.1}},
}


def filled(schema: Any, value: Any) -> Any:
    return SchemaDefaults(schema).filled(value)


@pytest.mark.parametrize(
    ("schema", "given", "expected"),
    [
        ({"properties": {"a": {"default": 1}}}, {}, {"a": 1}),
        ({"properties": {"a": {"default": None}}}, {}, {"a": None}),
        ({"properties": {"a": {"default": 1}}}, {"a": None}, {"a": None}),
        ({"properties": {"a": {"type": "integer"}}}, {}, {}),
        # A default that is an object is filled in too; an object nobody gave is not made.
        ({"properties": {"o": OPTIMIZER | {"default": {"lr": 1}}}}, {}, {"o": {"lr": 1, "name": "adam"}}),
        ({"properties": {"o": OPTIMIZER}}, {}, {}),
        ({"properties": {"o": OPTIMIZER}}, {"o": {"lr": 2}}, {"o": {"lr": 2, "name": "adam"}}),
        # As pydantic writes nested models.
        (
            {"properties": {"o": {"$ref": "#/$defs/O", "default": {}}}, "$defs": {"O": OPTIMIZER}},
            {},
            {"o": {"name": "adam", "lr": 0.1}},
        ),
        ({"properties": {"o": {"allOf": [{"default": 5}]}}}, {}, {"o": 5}),
        (
            {"allOf": [{"properties": {"a": {"default": 1}}}, {"properties": {"b": {"default": 2}}}]},
            {},
            {"a": 1, "b": 2},
        ),
        (
            {"properties": {"l": {"prefixItems": [{}], "items": OPTIMIZER}}},
            {"l": [{}, {}, 3]},
            {"l": [{}, {"name": "adam", "lr": 0.1}, 3]},
        ),
        # Of a choice, what can only be meant; what may not apply fills in nothing.
        ({"anyOf": [OPTIMIZER, {"type": "null"}]}, {}, {"name": "adam", "lr": 0.1}),
        (
            {"oneOf": [{"$ref": "#/$defs/O"}, {"type": ["array", "string"]}], "$defs": {"O": OPTIMIZER}},
            {"lr": 1},
            {"name": "adam", "lr": 1},
        ),
        ({"anyOf": [OPTIMIZER, {"type": "object"}]}, {}, {}),
        ({"anyOf": [OPTIMIZER, True]}, {}, {}),
        ({"if": True, "then": OPTIMIZER}, {}, {}),
        ({"$ref": "http://127.0.0.1:1/far.json", "properties": {"a": {"default": 1}}}, {}, {"a": 1}),
        (True, {}, {}),
    ],
)
def test_what_is_absent_has_the_schemas_default(schema: Any, given: Any, expected: Any) -> None:
    before = json.dumps(given)
    assert filled(schema, given) == expected
    assert json.dumps(given) == before


def test_where_nothing_is_absent_nothing_is_made() -> None:
    value = {"o": {"lr": 1, "name": "sgd"}, "l": [1, {}]}
    schema = {"properties": {"o": OPTIMIZER, "l": {"items": {"properties": {}}}}}
    assert filled(schema, value) is value


def test_a_large_value_is_filled_in_like_a_small_one() -> None:
    schema = {"properties": {"l": {"items": {"$ref": "#/$defs/O"}}}, "$defs": {"O": OPTIMIZER}}
    assert filled(schema, {"l": [{}] * 30_000}) == {"l": [{"name": "adam", "lr": 0.1}] * 30_000}


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        {"properties": {"a": {"$ref": "#", "default": {}}}},
        {"properties": {"a": {"$ref": "#", "default": {}}, "b": {"$ref": "#", "default": {}}}},
        {"allOf": [{"$ref": "#"}, {"$ref": "#"}]},
        {"anyOf": [{"$ref": "#"}]},
        {"properties": {"a": {"$ref": "#/$defs/x"}}, "$defs": {"x": {"allOf": [{"$ref": "#/$defs/x"}] * 2}}},
    ],
)
def test_defaults_without_end_are_refused(schema: Any) -> None:
    with pytest.raises(TooManyDefaults):
        filled(schema, {})


def test_the_jobs_defaults_come_first_and_the_submission_before_them() -> None:
    schema = {
        "type": "object",
        "required": ["lr", "epochs", "seed"],
        "properties": {"lr": {"default": 0.1}, "epochs": {"default": 1}, "seed": {"default": 7}},
    }
    parameters = Parameters('{"lr": 0.2, "epochs": 2}', json.dumps(schema))
    assert json.loads(parameters.resolve('{"lr": 0.3}')) == {"lr": 0.3, "epochs": 2, "seed": 7}
    assert json.loads(parameters.resolve("")) == {"lr": 0.2, "epochs": 2, "seed": 7}


def test_a_default_that_the_schema_forbids_is_told() -> None:
    schema = {"properties": {"a": {"type": "integer", "default": "x"}}}
    with pytest.raises(InvalidArgument) as caught:
        Parameters("{}", json.dumps(schema)).resolve("{}")
    assert caught.value.metadata == {"a": 'must be a whole number, not "x"'}


def test_a_schema_whose_defaults_do_not_end_is_told() -> None:
    schema = {"properties": {"a": {"$ref": "#", "default": {}}}}
    with pytest.raises(InvalidArgument, match="do not end"):
        Parameters("{}", json.dumps(schema)).resolve("{}")


def test_the_content_of_a_configuration_file_is_an_object() -> None:
    parameters = Parameters('{"model": {"depth": 2, "width": 8}}', "", {"model": "conf/model.yaml"})
    assert json.loads(parameters.resolve('{"model": {"depth": 4}}')) == {"model": {"depth": 4, "width": 8}}
    with pytest.raises(InvalidArgument) as caught:
        parameters.resolve('{"model": 3}', "runs[0].")
    assert caught.value.metadata == {
        "runs[0].model": "must be an object: it is the content of conf/model.yaml"
    }


def test_two_problems_of_one_path_are_both_told() -> None:
    schema = {"properties": {"name": {"type": "string", "minLength": 3, "pattern": "^[a-z]+$"}}}
    with pytest.raises(InvalidArgument) as caught:
        Parameters("{}", json.dumps(schema)).resolve('{"name": "A"}')
    assert "is too short" in caught.value.metadata["name"] and "must match" in caught.value.metadata["name"]


class Layer(BaseModel):
    model_config = ConfigDict(extra="forbid")
    width: int = Field(8, ge=1)
    act: Literal["relu", "gelu"] = "relu"


class Training(BaseModel):
    model_config = ConfigDict(extra="forbid")
    lr: float = Field(gt=0)
    layers: list[Layer] = Field(default_factory=list)
    body: Layer = Layer(width=16)
    head: Layer | None = None
    seed: int | None = 7


def test_what_pydantic_writes_is_filled_in_and_explained() -> None:
    parameters = Parameters('{"lr": 0.1}', json.dumps(Training.model_json_schema()))
    whole = json.loads(parameters.resolve('{"layers": [{}], "body": {"act": "gelu"}, "head": {}}'))
    # What pydantic makes itself of the same, but for factories, which its schema does not tell.
    assert whole == {
        "lr": 0.1,
        "layers": [{"width": 8, "act": "relu"}],
        "body": {"act": "gelu", "width": 8},
        "head": {"width": 8, "act": "relu"},
        "seed": 7,
    }
    assert Training.model_validate(whole).model_dump() == whole
    wrong = '{"lr": 0, "layers": [{}, {"act": "tanh"}], "body": {"w": 1}, "head": {"width": 0}, "seed": "x"}'
    with pytest.raises(InvalidArgument) as caught:
        parameters.resolve(wrong)
    assert caught.value.metadata == {
        "lr": "must be more than 0, not 0",
        "layers[1].act": 'must be one of "relu", "gelu", not "tanh"',
        "body.w": "unknown key; known are width, act",
        "head.width": "must be at least 1, not 0",
        "seed": 'must be a whole number or null, not "x"',
    }
