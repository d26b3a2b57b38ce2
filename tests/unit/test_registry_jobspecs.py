"""What makes a job's content."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from towline.errors import InvalidArgument
from towline.v1.jobs_pb2 import (
    CodeSource,
    GitSource,
    ImageSource,
    JobSpec,
    Provenance,
    PythonEnvironment,
    ResourceHints,
)
from towline_registry.core import json_objects, schemas
from towline_registry.core.jobspecs import completed, digest_of

DIGEST = "sha256:" + "0" * 64
COMMIT = "0123456789abcdef" * 2 + "01234567"
CLOSED = {"additionalProperties": False}


def code(**fields: Any) -> JobSpec:
    values = {"code": CodeSource(digest=DIGEST), "entrypoint": ["python", "train.py"]} | fields
    return JobSpec(**values)


def git(**fields: str) -> JobSpec:
    values = {"remote": "https://example.com/repo.git", "commit": COMMIT} | fields
    return JobSpec(git=GitSource(**values), entrypoint=["make"])


def image(**fields: Any) -> JobSpec:
    return JobSpec(**({"image": ImageSource(reference="alpine:3")} | fields))


def python(**fields: Any) -> JobSpec:
    return code(python=PythonEnvironment(**({"version": "3.11"} | fields)))


def config(text: str) -> JobSpec:
    return image(config_json=text)


@pytest.mark.parametrize(
    "spec",
    [
        code(),
        code(working_dir="src/train", hints=ResourceHints(gpus=8)),
        git(),
        git(commit=COMMIT + "0" * 24, subfolder="a/b"),
        git(remote="git@example.com:team/repo.git"),
        git(remote="example.com:repo"),
        git(remote="ssh://git@example.com:2222/team/repo.git"),
        git(remote="http://127.0.0.1:8080/repo"),
        git(remote="file:///srv/repo.git"),
        image(),
        image(image=ImageSource(reference="ghcr.io/team/a.b_c--d/image:v1.2@" + DIGEST)),
        image(image=ImageSource(reference="localhost:5000/image")),
        image(entrypoint=["sh", "-c", "echo ü; exit 1", ""]),
        python(version="3.9"),
        python(version="3.13.10"),
        python(requirements=["numpy==2.1.0", "torch==2.5.1+cu124 ; python_version >= '3.9'", "a[b,c]>=1"]),
        python(
            requirements=["pkg @ git+ssh://git@example.com/pkg.git@main", "pkg @ https://example.com/p.whl"]
        ),
        python(extra_index_urls=["https://example.com/simple"]),
        code(provenance=Provenance(git_remote="/home/me/repo", git_branch="ünï", git_dirty=True)),
    ],
)
def test_taken(spec: JobSpec) -> None:
    made = completed(spec)
    made.ClearField("config_json")
    made.ClearField("input_schema_json")
    assert made == spec


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        (JobSpec(entrypoint=["x"]), "source"),
        (code(code=CodeSource(digest="sha256:0")), "code.digest"),
        (code(code=CodeSource(digest=DIGEST, size_bytes=-1)), "code.size_bytes"),
        (code(entrypoint=[]), "entrypoint"),
        (code(entrypoint=[""]), "entrypoint"),
        (code(entrypoint=["a\0b"]), "entrypoint"),
        (code(entrypoint=["x"] * 1001), "entrypoint"),
        (code(entrypoint=["x" * 20_000] * 2), "entrypoint"),
        (code(working_dir="/abs"), "working_dir"),
        (code(working_dir="a/../.."), "working_dir"),
        (code(working_dir="a//b"), "working_dir"),
        (code(working_dir="./a"), "working_dir"),
        (code(hints=ResourceHints(gpus=-1)), "hints.gpus"),
        (code(hints=ResourceHints(gpus=1025)), "hints.gpus"),
        (git(remote=""), "git.remote"),
        (git(remote="https://token@example.com/repo"), "git.remote"),
        (git(remote="https://me:secret@example.com/repo"), "git.remote"),
        (git(remote="ssh://git:secret@example.com/repo"), "git.remote"),
        (git(remote="me:secret@example.com:repo"), "git.remote"),
        (git(remote="https://example.com:secret/repo"), "git.remote"),
        (git(remote="ext::sh -c evil"), "git.remote"),
        (git(remote="ext::evil"), "git.remote"),
        (git(remote="--upload-pack=evil"), "git.remote"),
        (git(remote="/srv/repo"), "git.remote"),
        (git(remote="https://"), "git.remote"),
        (git(commit="main"), "git.commit"),
        (git(commit=COMMIT[:-1]), "git.commit"),
        (git(commit=COMMIT.upper()), "git.commit"),
        (git(subfolder="../x"), "git.subfolder"),
        (image(image=ImageSource()), "image.reference"),
        (image(image=ImageSource(reference="Alpine")), "image.reference"),
        (image(image=ImageSource(reference="a b")), "image.reference"),
        (image(image=ImageSource(reference="--privileged")), "image.reference"),
        (image(python=PythonEnvironment(version="3.11")), "python"),
        (image(working_dir="a"), "working_dir"),
        (python(version=""), "python.version"),
        (python(version="3"), "python.version"),
        (python(version="2.7"), "python.version"),
        (python(version="3.11.0rc1"), "python.version"),
        (python(version="3.011"), "python.version"),
        (python(requirements=["--index-url https://evil"]), "python.requirements"),
        (python(requirements=["-e ."]), "python.requirements"),
        (python(requirements=["a\nb"]), "python.requirements"),
        (python(requirements=[""]), "python.requirements"),
        (python(requirements=["a @ git+https://token@example.com/a"]), "python.requirements"),
        (python(extra_index_urls=["https://me:secret@example.com/simple"]), "python.extra_index_urls"),
        (python(extra_index_urls=["file:///x"]), "python.extra_index_urls"),
        (code(provenance=Provenance(git_remote="https://me:secret@example.com/x")), "provenance.git_remote"),
        (code(provenance=Provenance(platform="x" * 1025)), "provenance.platform"),
        (config("[]"), "config_json"),
        (config("{"), "config_json"),
        (config('{"a": NaN}'), "config_json"),
        (config('{"a": -Infinity}'), "config_json"),
        (config('{"a": 1e999}'), "config_json"),
        (config('{"a": 1, "a": 2}'), "config_json"),
        (config('{"a": ["\\ud800"]}'), "config_json"),
        (config('{"a": ' + "[" * 100 + "]" * 100 + "}"), "config_json"),
        (config('{"a": ' + "[" * 100_000 + "]" * 100_000 + "}"), "config_json"),
        (config('{"a": "' + "x" * 1024**2 + '"}'), "config_json"),
        (config('{"a": ' + "1" * 5000 + "}"), "config_json"),
    ],
)
def test_refused(spec: JobSpec, field: str) -> None:
    with pytest.raises(InvalidArgument) as failure:
        completed(spec)
    assert failure.value.metadata == {"field": f"spec.{field}"}
    assert "secret" not in failure.value.message
    assert "token@" not in failure.value.message
    assert len(failure.value.message) < 500


@pytest.mark.parametrize(
    ("schema", "field"),
    [
        ("true", "input_schema_json"),
        ('{"type": "nonsense"}', "input_schema_json"),
        ('{"$schema": "http://json-schema.org/draft-07/schema#"}', "input_schema_json"),
        ('{"$schema": 5}', "input_schema_json"),
        ('{"properties": {"lr": {"pattern": "("}}}', "input_schema_json"),
        ('{"patternProperties": {"(": {}}}', "input_schema_json"),
        ('{"properties": {"big": {"multipleOf": 0.1}}}', "input_schema_json"),
        ('{"properties": {"name": {"pattern": "("}}}', "input_schema_json"),
        ('{"$ref": "#"}', "input_schema_json"),
        ('{"$ref": "#/$defs/none"}', "input_schema_json"),
        ('{"$ref": "http://127.0.0.1:9/schema"}', "input_schema_json"),
        ('{"properties": {"other": {"$ref": "http://127.0.0.1:9/schema"}}}', "input_schema_json"),
        ('{"$defs": {"unused": {"$ref": "other.json"}}}', "input_schema_json"),
        ('{"properties": {"lr": {"type": "string"}}}', "config_json.lr"),
        ('{"required": ["epochs"]}', "config_json.epochs"),
        ('{"properties": {"lr": {"minimum": 1}}}', "config_json.lr"),
        ('{"properties": {"lr": {"minimum": 0}}, "required": ["lr"]}', None),
        ('{"$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object"}', None),
    ],
)
def test_given_schema(schema: str, field: str | None) -> None:
    spec = image(config_json=f'{{"lr": 0.5, "name": "x", "big": 1{"0" * 400}}}', input_schema_json=schema)
    if field is None:
        assert completed(spec).input_schema_json == schema
        return
    with pytest.raises(InvalidArgument) as failure:
        completed(spec)
    assert failure.value.metadata == {"field": f"spec.{field}"}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (True, {"type": "boolean"}),
        (1, {"type": "integer"}),
        (1.0, {"type": "number"}),
        ("a", {"type": "string"}),
        (None, {}),
        ([], {"type": "array"}),
        ([1, 2], {"type": "array", "items": {"type": "integer"}}),
        ([1, 2.5], {"type": "array", "items": {"type": "number"}}),
        ([1, "a"], {"type": "array"}),
        ([1, None], {"type": "array"}),
        ([True, 1], {"type": "array"}),
        ([[1], [2, 3]], {"type": "array", "items": {"type": "array", "items": {"type": "integer"}}}),
        ({}, {"type": "object", "properties": {}, **CLOSED}),
        ({"a": {"b": 1}}, {
            "type": "object",
            "properties": {"a": {"type": "object", "properties": {"b": {"type": "integer"}}, **CLOSED}},
            **CLOSED,
        }),
    ],
)  # fmt: skip
def test_derived_schema(value: Any, expected: dict[str, Any]) -> None:
    schema = json.loads(completed(config(json.dumps({"key": value}))).input_schema_json)
    assert schema["$schema"] == schemas.DIALECT
    assert (schema["type"], schema["additionalProperties"]) == ("object", False)
    assert schema["properties"] == {"key": expected}


@pytest.mark.parametrize(
    ("default", "taken", "refused"),
    [
        (1, [2, -3, 4.0], [0.5, "1", True, None]),
        (0.1, [1, 2.5], ["0.1", False, None]),
        (True, [False], [0, "true"]),
        ("a", ["", "b"], [1, None]),
        (None, [None, 1, "a", {"b": []}], []),
        ([1], [[], [2, 3]], [["a"], [0.5], 1]),
        ({"a": 1}, [{"a": 2}, {}], [{"b": 1}, {"a": "x"}, []]),
    ],
)
def test_derived_schema_takes_the_same_types(default: Any, taken: list[Any], refused: list[Any]) -> None:
    validator = Draft202012Validator(schemas.derived({"key": default}))
    for value in taken:
        assert validator.is_valid({"key": value}), value
    for value in refused:
        assert not validator.is_valid({"key": value}), value
    assert not validator.is_valid({"other": default})


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text(), _json, max_size=5))
def test_any_defaults_satisfy_their_derived_schema(defaults: dict[str, Any]) -> None:
    schema = schemas.read(json_objects.canonical(schemas.derived(defaults)), "schema")
    assert list(schemas.misfits(schema, defaults, "schema")) == []


@given(st.dictionaries(st.text(), _json, max_size=5), st.randoms())
def test_order_and_white_space_do_not_change_the_digest(defaults: dict[str, Any], rng: Any) -> None:
    keys = list(defaults)
    rng.shuffle(keys)
    other = json.dumps({key: defaults[key] for key in keys}, indent=2, ensure_ascii=False)
    one = completed(config(json.dumps(defaults)))
    assert digest_of(one) == digest_of(completed(config(other)))
    assert json_objects.read(one.config_json, "config") == defaults


def test_digest_covers_what_is_run_and_nothing_else() -> None:
    base = digest_of(completed(code()))
    assert base == "sha256:" + base.removeprefix("sha256:").lower()
    assert len(base) == 7 + 64
    assert digest_of(completed(code(provenance=Provenance(git_commit=COMMIT, git_dirty=True)))) == base
    assert digest_of(completed(code(config_json="{}"))) == base
    others = [
        code(entrypoint=["python", "other.py"]),
        code(working_dir="src"),
        code(code=CodeSource(digest="sha256:" + "1" * 64)),
        code(config_json='{"a": 1}'),
        code(config_json='{"a": 1.0}'),
        code(input_schema_json="{}"),
        code(hints=ResourceHints(gpus=1)),
        python(),
        python(requirements=["a==1"]),
        python(requirements=["a==1", "b==1"]),
        git(),
        image(),
    ]
    digests = [digest_of(completed(spec)) for spec in others]
    assert len({base, *digests}) == len(others) + 1


def test_digest_never_changes() -> None:
    """Versions made by older registries stay comparable; a change here is a change of the format."""
    spec = code(config_json='{"b": [1, 2.5], "a": "ü"}', python=PythonEnvironment(version="3.11.7"))
    assert digest_of(completed(spec)) == (
        "sha256:c3f82eb76ce3a5ebaa488d0eb4b9d53f4e2afd3615e6e02f6feda10fa9d01210"
    )
