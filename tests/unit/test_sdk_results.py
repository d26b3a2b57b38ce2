"""Types of results, and of parameters that were only seen on a command line."""

from towline.capture.results import schema_of, tracked


def test_results_are_open_and_have_the_types_of_their_values():
    schema = schema_of(
        {"loss": 0.5, "n": 3, "ok": True, "name": "a", "none": None, "l": [1, 2], "m": [1, "a"]}
    )
    assert schema["type"] == "object"
    assert "additionalProperties" not in schema
    assert schema["properties"] == {
        "loss": {"type": "number"},
        "n": {"type": "integer"},
        "ok": {"type": "boolean"},
        "name": {"type": "string"},
        "none": {},
        "l": {"type": "array", "items": {"type": "integer"}},
        "m": {"type": "array"},
    }


def test_what_was_only_seen_takes_any_number_and_what_the_program_told_its_own_type():
    parameters = {"n": 3, "amp": True, "layers": [1, 2], "model": {"width": 8, "depth": 2}, "told": 1}
    guessed = {"n": 3, "amp": True, "layers": [1, 2], "model": {"width": 8}}
    schema = tracked(parameters, guessed)
    assert schema["additionalProperties"] is False
    assert schema["properties"] == {
        "n": {"type": "number"},
        "amp": {"type": "boolean"},
        "layers": {"type": "array", "items": {"type": "number"}},
        "model": {
            "type": "object",
            "properties": {"width": {"type": "number"}, "depth": {"type": "integer"}},
            "additionalProperties": False,
        },
        "told": {"type": "integer"},
    }
