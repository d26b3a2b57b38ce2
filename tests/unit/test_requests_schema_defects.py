"""What is no JSON Schema, and where in it."""

import json
import re

import pytest

from towline.requests.json_schemas import Schema


@pytest.mark.parametrize(
    ("schema", "place", "told"),
    [
        ({"properties": {"lr": {"type": "flot"}}}, "properties.lr.type", "no type"),
        ({"properties": {"lr": {"type": 5}}}, "properties.lr.type", "no type"),
        ({"properties": {"lr": 3}}, "properties.lr", "no schema"),
        ({"properties": {"lr": {"pattern": "("}}}, "properties.lr.pattern", "no regex"),
        ({"patternProperties": {"(": {}}}, "patternProperties", "regex"),
        ({"required": "lr"}, "required", "array"),
        ({"properties": {"a": {"minimum": "1"}}}, "properties.a.minimum", "number"),
        ({"allOf": []}, "allOf", "non-empty"),
        ({"allOf": [{}, {"enum": 5}]}, "allOf.1.enum", "array"),
        ({"$ref": 5}, "$ref", "string"),
    ],
)
def test_the_place_is_named(schema: object, place: str, told: str) -> None:
    with pytest.raises(ValueError, match="is no JSON Schema") as failure:
        Schema(json.dumps(schema))
    message = str(failure.value).partition(": ")[2]
    assert message.startswith(f"{place}: ")
    assert told in message


@pytest.mark.parametrize(
    ("schema", "place"),
    [
        ({"items": {"$ref": "#/$defs/none"}}, "items.$ref"),
        ({"properties": {"a": {"$ref": "http://127.0.0.1:9/x"}}}, "properties.a.$ref"),
        ({"$defs": {"a": {"not": {"$ref": "a.json"}}}}, "$defs.a.not.$ref"),
        ({"anyOf": [{"$dynamicRef": "#none"}]}, "anyOf.0.$dynamicRef"),
        ({"$ref": "https://json-schema.org/draft/2020-12/schema"}, "$ref"),
    ],
)
def test_a_reference_to_elsewhere_is_named(schema: object, place: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"refers to what is not in it: {place}: ")):
        Schema(json.dumps(schema)).check_alone()


@pytest.mark.parametrize(
    "schema",
    [
        {"$defs": {"n": {"type": "integer"}}, "properties": {"a": {"items": {"$ref": "#/$defs/n"}}}},
        {"$id": "http://example.com/a", "properties": {"b": {"$ref": "a#/$defs/n"}}, "$defs": {"n": {}}},
        {"$defs": {"n": {"$anchor": "here"}}, "properties": {"a": {"$ref": "#here"}}},
        # These are values, not schemas.
        {"enum": [{"$ref": "elsewhere"}], "default": {"$ref": "elsewhere"}, "examples": [{"$ref": "x"}]},
        {"properties": {"$ref": {"type": "string"}}},
        True,
    ],
)
def test_a_schema_that_stands_alone_is_taken(schema: object) -> None:
    Schema(json.dumps(schema)).check_alone()


def test_all_places_are_told_each_once() -> None:
    wrong = {"properties": {"a": {"type": "x"}, "b": {"type": "y"}, "c": 1}, "required": 2}
    with pytest.raises(ValueError, match="is no JSON Schema") as failure:
        Schema(json.dumps(wrong))
    for place in ("properties.a.type", "properties.b.type", "properties.c", "required"):
        assert str(failure.value).count(f"{place}: ") == 1
