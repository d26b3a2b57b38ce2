"""Parameters: what JSON holds of them, and how programs read them."""

import argparse
import copy
import enum
import json
import pickle
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from towline.runtime.config import Config, merged, plain


class Scalar:
    """As NumPy's scalars behave."""

    def __init__(self, value):
        self.value = value

    def item(self):
        return self.value


class Color(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


@dataclass
class Model:
    width: int = 8
    layers: tuple[int, ...] = (1, 2)


@dataclass
class Settings:
    lr: float = 0.1
    model: Model = field(default_factory=Model)


class Pydantic:
    def model_dump(self):
        return {"lr": 1.0}


@pytest.mark.parametrize(
    ("config", "values"),
    [
        ({"a": 1, "b": {"c": [1, "x", None, True]}}, {"a": 1, "b": {"c": [1, "x", None, True]}}),
        (Settings(), {"lr": 0.1, "model": {"width": 8, "layers": [1, 2]}}),
        (argparse.Namespace(lr=0.5, out=Path("a/b")), {"lr": 0.5, "out": "a/b"}),
        (Pydantic(), {"lr": 1.0}),
        ({"n": Scalar(3), "color": Color.RED, "level": Level.HIGH}, {"n": 3, "color": "red", "level": 3}),
        ({}, {}),
    ],
)
def test_configs_of_all_kinds_become_plain(config, values):
    found = plain(config)
    assert found.values == values
    assert found.refused == []
    assert json.loads(json.dumps(found.values)) == values
    assert type(found.values.get("level", 0)) is int


def test_what_json_cannot_hold_is_named_by_its_place_and_kept_for_the_program():
    loop: list[object] = []
    loop.append(loop)
    config = {
        "lr": 0.1,
        "model": {"act": len, "dim": 3},
        "bad": float("nan"),
        "inf": [1.0, float("inf")],
        "loop": loop,
        "kind": Settings,
        "keys": {1: "one"},
    }
    found = plain(config)
    assert found.values == {"lr": 0.1, "model": {"dim": 3}, "keys": {}}
    assert found.refused == ["model.act", "bad", "inf", "loop", "kind", "keys.1"]
    assert found.rest["model"] == {"act": len}
    assert merged(found.rest, found.values)["model"] == {"act": len, "dim": 3}


class Raising:
    @property
    def model_dump(self):
        raise RuntimeError("not now")


def test_a_config_that_holds_itself_is_recorded_without_the_loop_and_stays_usable():
    config: dict[str, object] = {"lr": 0.1}
    pair: list[object] = [config, config]
    pair.append(pair)
    config |= {"self": config, "pair": pair, "raising": Raising(), "shared": [pair, pair]}
    found = plain(config)
    assert found.values == {"lr": 0.1}
    assert found.refused == ["self", "pair", "raising", "shared"]
    made = Config(merged(found.rest, found.values))
    assert made.lr == 0.1
    assert made.self.lr == 0.1
    assert made.pair[0]["lr"] == 0.1
    assert isinstance(made.raising, Raising)


def test_a_config_of_any_depth_is_read_to_a_bound():
    config: dict[str, object] = {}
    for _ in range(10_000):
        config = {"a": config}
    found = plain(config)
    assert len(found.refused) == 1
    assert Config(merged(found.rest, found.values)).a.a.a


@pytest.mark.parametrize("config", [3, "lr=1", [1], Settings])
def test_a_config_without_fields_is_a_type_error(config):
    with pytest.raises(TypeError, match="config is of type"):
        plain(config)


def test_parameters_are_read_as_attributes_at_every_level():
    config = Config({"lr": 0.1, "model": {"width": 8}, "stages": [{"name": "a"}]})
    assert (config.lr, config.model.width, config.stages[0].name) == (0.1, 8, "a")
    config.lr = 0.2
    assert dict(config)["lr"] == 0.2
    with pytest.raises(AttributeError, match=r"no parameter 'momentum'; there are: lr, model, stages"):
        config.momentum  # noqa: B018 - the access is what is tested


def test_configs_can_be_copied_and_sent_to_worker_processes():
    config = Config({"model": {"width": 8}})
    for twin in (copy.deepcopy(config), pickle.loads(pickle.dumps(config))):
        assert twin == config
        assert twin.model.width == 8


def test_parameters_go_over_defaults_key_by_key():
    defaults = {"lr": 0.1, "model": {"width": 8, "depth": 2}, "tags": ["a"]}
    over = {"model": {"width": 16}, "tags": ["b"], "new": 1, "lr": {"start": 1}}
    assert merged(defaults, over) == {
        "lr": {"start": 1},
        "model": {"width": 16, "depth": 2},
        "tags": ["b"],
        "new": 1,
    }
    assert defaults["model"] == {"width": 8, "depth": 2}
