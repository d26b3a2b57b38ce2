"""What people write on the command line becomes the values they mean."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from towline.cli import values, yaml_files
from towline.errors import InvalidArgument


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("3", 3),
        ("0x1f", 31),
        (".5", 0.5),
        ("true", True),
        ("null", None),
        ("", None),
        ("no", "no"),
        ("on", "on"),
        ("010", "010"),
        ("12:30", "12:30"),
        ("2024-01-01", "2024-01-01"),
        (".inf", ".inf"),
        ("16GiB", "16GiB"),
        ('"3"', "3"),
        ("[1, a]", [1, "a"]),
        ('{"lr": 1e-4}', {"lr": 0.0001}),
    ],
)
def test_values_are_those_of_json_not_of_yaml_1_1(text: str, value: object) -> None:
    assert values.settings([f"key={text}"]) == {"key": value}


_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=("Cs", "Cc")))
    | st.sampled_from(["1e-3", "no", "~", "0o17", "=", "<<", "12:30", "- a", "# x", "a\nb\n", "null", "_1"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab:#.1", max_size=3), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from("abc"), _json))
def test_what_is_written_as_yaml_is_read_as_the_same(value: object) -> None:
    assert yaml_files.load(yaml_files.dump(value), "dump") == value


def test_dots_nest() -> None:
    assert values.settings(["model.depth=4", "model.act=relu", "seed=1"]) == {
        "model": {"depth": 4, "act": "relu"},
        "seed": 1,
    }


@pytest.mark.parametrize(
    ("texts", "problem"),
    [
        (["lr"], "'lr'"),
        (["lr", "=3", "ok=1"], "'lr', '=3'"),
        (["a..b=1"], "empty part"),
        (["a=1", "a.b=2"], "a value of its own"),
        (["a=[1"], "--set a"),
        (["a=1", "b=1", "a=2"], "given twice: 'a'"),
        (["a={b: 1, b: 2}"], "--set a: has the key 'b' twice (line 1, column 8)"),
        (["a=" + "x" * 2**20 + "y"], "at most 1 MiB"),
    ],
)
def test_settings_that_cannot_be_read(texts: list[str], problem: str) -> None:
    with pytest.raises(InvalidArgument, match="--set") as raised:
        values.settings(texts)
    assert problem in raised.value.message


def test_variables_become_json_texts() -> None:
    assert values.variables(["memory=16GiB", "cpus=0.5"], 2) == {
        "memory": '"16GiB"',
        "cpus": "0.5",
        "gpus": "2",
    }


def test_variables_and_labels_said_twice_are_refused() -> None:
    with pytest.raises(InvalidArgument, match="--var: given twice: 'a'"):
        values.variables(["a=1", "a=1"], None)
    with pytest.raises(InvalidArgument, match="--label: given twice: 'b', 'c'"):
        values.pairs(["b=1", "c=1", "b=2", "c=2"], "--label")


def test_gpus_said_twice_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="--gpus"):
        values.variables(["gpus=1"], 2)


def test_merging_goes_into_objects_and_replaces_all_else() -> None:
    base = {"model": {"depth": 1, "width": 2}, "tags": [1, 2]}
    assert values.merged(base, {"model": {"depth": 9}, "tags": [3]}) == {
        "model": {"depth": 9, "width": 2},
        "tags": [3],
    }
    assert base["model"] == {"depth": 1, "width": 2}


@pytest.mark.parametrize(
    ("content", "problem"),
    [(b"a: [1", "neither YAML nor JSON"), (b"- 1", "must hold an object"), (b"\xff\xfe\x00", "UTF-8")],
)
def test_parameter_files_that_are_none(tmp_path: Path, content: bytes, problem: str) -> None:
    file = tmp_path / "config.yaml"
    file.write_bytes(content)
    with pytest.raises(InvalidArgument, match=problem) as raised:
        yaml_files.read_object(file, "--config")
    assert str(file) in raised.value.message


def test_a_parameter_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    with file.open("wb") as sparse:
        sparse.truncate(48 * 2**20)
    with pytest.raises(InvalidArgument, match=r"--config .*: is 48 MiB; at most 1 MiB"):
        yaml_files.read_object(file, "--config")


def test_aliases_that_multiply_are_refused_and_others_are_taken(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]" for level in range(1, 12)]
    file.write_text("\n".join(lines))
    with pytest.raises(InvalidArgument, match="more than 1 MiB as JSON"):
        yaml_files.read_object(file, "--config")
    file.write_text("a: &a [1]\nb: *a\n")
    assert yaml_files.read_object(file, "--config") == {"a": [1], "b": [1]}


def test_where_yaml_is_wrong_is_said_without_its_jargon() -> None:
    with pytest.raises(InvalidArgument, match=r"\(line 1, column \d+\)$") as raised:
        yaml_files.load("a: [1", "--config x")
    assert "unicode string" not in raised.value.message


def test_a_parameter_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match=r"--config .*No such file"):
        yaml_files.read_object(tmp_path / "none.yaml", "--config")


def test_json_files_are_read_too(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"lr": 1e-5, "on": "no"}))
    assert yaml_files.read_object(file, "--config") == {"lr": 1e-5, "on": "no"}
