"""What a program hands to `towline.init`, brought up to date with the run's parameters."""

import argparse
import enum
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import click
import pytest

from towline.errors import FailedPrecondition
from towline.runtime.given import read


class Mode(enum.Enum):
    FAST = "fast"
    EXACT = "exact"


@dataclass
class Model:
    width: int = 8


@dataclass
class Settings:
    lr: float = 0.1
    model: Model = field(default_factory=Model)


@dataclass(frozen=True)
class Frozen:
    lr: float = 0.1


def test_a_namespace_gets_what_the_submission_changed_and_keeps_the_rest_as_it_is():
    data = Path("data")
    act = len
    namespace = argparse.Namespace(
        lr=0.1,
        out=Path("a"),
        data=data,
        mode=Mode.FAST,
        size=(1, 2),
        model=SimpleNamespace(width=8),
        act=act,
        n=3,
    )
    given, problem = read(None, namespace)
    assert not problem
    assert given.plain.values == {
        "lr": 0.1,
        "out": "a",
        "data": "data",
        "mode": "fast",
        "size": [1, 2],
        "model": {"width": 8},
        "n": 3,
    }
    assert given.plain.refused == ["act"]
    changed = {"lr": 1, "out": "b/c", "mode": "exact", "size": [3, 4], "model": {"width": 16}, "n": True}
    given.update_args({**given.plain.values, **changed})
    assert namespace == argparse.Namespace(
        lr=1.0,
        out=Path("b/c"),
        data=data,
        mode=Mode.EXACT,
        size=(3, 4),
        model=SimpleNamespace(width=16),
        act=act,
        n=True,
    )
    assert namespace.data is data
    assert isinstance(namespace.lr, float)
    assert namespace.n is True


def test_dictionaries_dataclasses_and_click_are_updated_in_place():
    values = {"lr": 0.1, "model": {"width": 8}}
    read({"epochs": 1}, values)[0].update_args({"lr": 0.2, "model": {"width": 9, "depth": 1}, "epochs": 2})
    assert values == {"lr": 0.2, "model": {"width": 9, "depth": 1}}

    settings = Settings()
    read(None, settings)[0].update_args({"lr": 0.2, "model": {"width": 9}})
    assert settings == Settings(0.2, Model(9))

    @click.command()
    @click.option("--lr", default=0.1)
    @click.option("--name", default="a")
    @click.pass_context
    def command(context, lr, name):
        given, _ = read(None, context)
        assert given.plain.values == {"lr": 0.3, "name": "a"}
        given.update_args({"lr": 0.5, "name": "a"})
        assert context.params == {"lr": 0.5, "name": "a"}
        return "done"

    assert command.main(["--lr", "0.3"], standalone_mode=False) == "done"


def test_a_list_of_words_is_parsed_with_the_parameters_in_it():
    words = ["data.csv", "--lr", "0.1", "--fast"]
    given, _ = read({"epochs": 3}, words)
    assert given.plain.values == {"epochs": 3, "lr": 0.1}
    given.update_args({"epochs": 4, "lr": 0.5})
    assert words == ["data.csv", "--lr", "0.5", "--fast"]


def test_arguments_go_over_the_config():
    given, _ = read({"lr": 0.1, "model": {"width": 8, "depth": 1}}, {"model": {"width": 9}})
    assert given.plain.values == {"lr": 0.1, "model": {"width": 9, "depth": 1}}


def test_arguments_that_cannot_be_changed_are_an_error_that_says_what_to_do():
    given, _ = read(None, Frozen())
    given.update_args({"lr": 0.1})
    with pytest.raises(
        FailedPrecondition, match=r"'lr' .* cannot be written into args, a Frozen .* run\.config"
    ) as error:
        given.update_args({"lr": 0.2})
    assert error.value.reason == "ARGS_NOT_UPDATED"


def test_arguments_of_another_type_are_named():
    assert read(None, 3)[1].startswith("args is of type int; give an argparse.Namespace, click's parameters")
