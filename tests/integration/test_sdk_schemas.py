"""The schema that a config brings along is that of its job."""

import json
import os

import pytest

from towline.client import Client
from towline.requests.json_schemas import Schema
from towline_testing.checkouts import git_checkout

MODEL = """
from pydantic import BaseModel, Field
import towline

class Optimizer(BaseModel):
    name: str = "adam"
    lr: float = Field(0.1, gt=0, le=1, alias="learning_rate")

class Config(BaseModel):
    epochs: int = Field(3, ge=1, description="Passes over the data")
    optimizer: Optimizer = Optimizer()
"""


@pytest.fixture
def recorded(endpoints, tmp_path):
    """Run a script here; gives what it printed for people, and the content of its job."""

    def recorded(script, **files):
        project = git_checkout(tmp_path / f"schemas-{os.urandom(3).hex()}")
        project.commit({"fit.py": script, **files})
        data = tmp_path / "data"
        data.mkdir(exist_ok=True)
        (data / "endpoints.json").write_text(json.dumps(endpoints._asdict() | {"agent": "unused"}))
        done = project.python("fit.py", TOWLINE_DATA_DIR=str(data), TMPDIR=str(tmp_path))
        assert done.returncode == 0, done.stderr
        with Client(endpoints) as client:
            return done.stderr, client.jobs.get("fit").spec

    return recorded


def violations(spec, value):
    return dict(Schema(spec.input_schema_json).violations(value))


def test_a_pydantic_model_brings_its_bounds_and_descriptions(recorded):
    _, spec = recorded(MODEL + "towline.init(config=Config())\n")

    schema = json.loads(spec.input_schema_json)
    assert json.loads(spec.config_json) == {"epochs": 3, "optimizer": {"name": "adam", "lr": 0.1}}
    assert schema["properties"]["epochs"]["description"] == "Passes over the data"
    assert violations(spec, {"epochs": 0, "optimizer": {"lr": 2, "naem": "sgd"}}) == {
        "epochs": "must be at least 1, not 0",
        "optimizer.lr": "must be at most 1, not 2",
        "optimizer.naem": "unknown key; did you mean 'name'?",
    }


def test_config_files_and_the_schema_go_together(recorded):
    script = MODEL + "towline.init(config=Config(), config_files={'model': 'model.json'})\n"

    _, spec = recorded(script, **{"model.json": '{"depth": 4}'})

    assert json.loads(spec.config_json)["model"] == {"depth": 4}
    assert not violations(spec, json.loads(spec.config_json))
    assert violations(spec, {"model": {"depth": "deep"}, "modle": {}}).keys() == {"model.depth", "modle"}


def test_a_schema_that_its_own_values_do_not_fit_is_replaced_by_their_types(recorded):
    script = MODEL + (
        "class Odd(Config):\n"
        "    @classmethod\n"
        "    def model_json_schema(cls, **options):\n"
        "        return {'type': 'object', 'properties': {'epochs': {'type': 'string'}}}\n"
        "towline.init(config=Odd())\n"
    )

    said, spec = recorded(script)

    assert "towline: the schema is that of the types, not the config's own: " in said
    assert "towline: recorded fit:v" in said
    assert json.loads(spec.input_schema_json)["properties"]["epochs"] == {"type": "integer"}


def test_a_model_whose_schema_fails_does_not_break_the_program(recorded):
    script = MODEL + (
        "class Broken(Config):\n"
        "    @classmethod\n"
        "    def model_json_schema(cls, **options):\n"
        "        raise RuntimeError('no schema')\n"
        "towline.init(config=Broken(epochs=5))\n"
    )

    said, spec = recorded(script)

    assert said.startswith("towline: recorded fit:v")
    assert json.loads(spec.config_json)["epochs"] == 5
    assert json.loads(spec.input_schema_json)["properties"]["epochs"] == {"type": "integer"}
