"""What people write on the command line becomes the values they mean."""

import json
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from towline.cli import submission, values, yaml_files
from towline.client import retry_policy, time_limits
from towline.errors import InvalidArgument
from towline.v1 import runs_pb2


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


@pytest.mark.parametrize(
    ("texts", "budgets"),
    [
        ([], {}),
        (["3"], {"user_error": 3}),
        (["3", "oom=1", "GPU-Fault=0"], {"user_error": 3, "oom": 1, "gpu_fault": 0}),
        (["preempted=1000"], {"preempted": 1000}),
    ],
)
def test_retries_are_the_programs_own_unless_a_cause_is_named(
    texts: list[str], budgets: dict[str, int]
) -> None:
    assert values.retries(texts) == budgets


@pytest.mark.parametrize(
    ("texts", "problem"),
    [
        (["x=1"], "'x' is none of user_error, oom, timeout, image_build"),
        (["cancelled=1"], "'cancelled' is none of"),
        (["=1"], "'' is none of"),
        (["-1"], "N from 0 to 1,000, not '-1'"),
        (["oom=1001"], "not 'oom=1001'"),
        (["oom"], "not 'oom'"),
        (["1.5"], "not '1.5'"),
        (["1", "user_error=2"], "given twice for user_error"),
    ],
)
def test_retries_that_cannot_be_read(texts: list[str], problem: str) -> None:
    with pytest.raises(InvalidArgument, match=r"^--retries: ") as raised:
        values.retries(texts)
    assert problem in raised.value.message


def test_a_submission_carries_its_limits_and_retries() -> None:
    wishes = submission.Wishes(retries=("3", "oom=1"), max_runtime="1h30m", max_wait="30m")
    made = submission.build("j", "q", wishes)
    assert made.limits == time_limits(max_runtime=timedelta(minutes=90), max_wait=timedelta(minutes=30))
    assert made.retry_policy == retry_policy({runs_pb2.FAILURE_CAUSE_USER_ERROR: 3, "oom": 1})
    plain = submission.build("j", "q", submission.Wishes())
    assert not plain.HasField("limits")
    assert not plain.HasField("retry_policy")
    only = submission.build("j", "q", submission.Wishes(max_wait="30m"))
    assert not only.limits.HasField("max_runtime")


@pytest.mark.parametrize(
    ("wishes", "problem"),
    [
        (submission.Wishes(max_runtime="2x"), "--max-runtime: '2x' is no duration; write one such as"),
        (submission.Wishes(max_wait="0s"), "--max-wait: '0s' is no time at all; give more than 0"),
    ],
)
def test_limits_that_cannot_be_read_name_the_option(wishes: submission.Wishes, problem: str) -> None:
    with pytest.raises(InvalidArgument) as raised:
        submission.build("j", "q", wishes)
    assert raised.value.message.startswith(problem)


def test_a_policy_is_made_of_what_python_has() -> None:
    policy = retry_policy(
        {"OOM": 2}, first_backoff=timedelta(seconds=1.5), longest_backoff=timedelta(minutes=1)
    )
    assert [(budget.cause, budget.max_retries) for budget in policy.budgets] == [
        (runs_pb2.FAILURE_CAUSE_OOM, 2)
    ]
    assert policy.first_backoff.ToTimedelta() == timedelta(seconds=1.5)
    assert policy.longest_backoff.ToTimedelta() == timedelta(minutes=1)
    assert not retry_policy({}).HasField("first_backoff")
    with pytest.raises(InvalidArgument, match="retries: 'bad luck' is none of user_error"):
        retry_policy({"bad luck": 1})


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


def test_inputs_are_artifact_versions_by_name() -> None:
    assert values.inputs(["data=mnist:v3", "base=bert", "all=artifacts/x/versions/best"]) == {
        "data": "artifacts/mnist/versions/v3",
        "base": "artifacts/bert/versions/latest",
        "all": "artifacts/x/versions/best",
    }


@pytest.mark.parametrize(
    ("texts", "problem"),
    [
        (["data"], "key=value"),
        (["=mnist"], "key=value"),
        (["data=a:v0", "data=b:v0"], "given twice"),
        (["a/b=mnist"], "a/b=mnist"),
        ([".x=mnist"], "not '.' or '-' first"),
        (["data=not a name"], "data=not a name"),
        (["data=a:b:c"], "data=a:b:c"),
    ],
)
def test_inputs_that_cannot_be_read_are_named(texts: list[str], problem: str) -> None:
    with pytest.raises(InvalidArgument, match="--input") as caught:
        values.inputs(texts)
    assert problem in caught.value.message
