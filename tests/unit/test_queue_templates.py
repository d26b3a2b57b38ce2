"""Templates: what an administrator may write, and what a submission may fill in."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from towline.errors import InvalidArgument
from towline.v1 import docker_pb2, jobs_pb2, queues_pb2
from towline_queue.core import placeholders
from towline_queue.core.placeholders import Macro, Variable
from towline_queue.core.template import Template

MACROS = {"run_id": "r1", "run_name": "first", "job": "digits:v0", "queue": "q", "author": "ann"}


def variable(name: str, schema: str = "", default: str = "") -> queues_pb2.TemplateVariable:
    return queues_pb2.TemplateVariable(name=name, schema_json=schema, default_json=default)


def template(*variables: queues_pb2.TemplateVariable, **docker: object) -> Template:
    return Template(queues_pb2.QueueSpec(docker=docker_pb2.DockerTemplate(**docker), variables=variables))


def resolve(made: Template, hints: int = 0, **given: str) -> docker_pb2.DockerOptions:
    return made.resolve(given, jobs_pb2.ResourceHints(gpus=hints), MACROS)


def problems_of_template(*variables: queues_pb2.TemplateVariable, **docker: object) -> dict[str, str]:
    with pytest.raises(InvalidArgument) as caught:
        template(*variables, **docker)
    assert caught.value.reason == "INVALID_TEMPLATE"
    return caught.value.metadata


def problems_of_values(made: Template, **given: str) -> dict[str, str]:
    with pytest.raises(InvalidArgument) as caught:
        resolve(made, **given)
    assert caught.value.reason == "INVALID_VARIABLE"
    return caught.value.metadata


def test_an_empty_template_has_safe_defaults() -> None:
    options = resolve(template())
    assert options == docker_pb2.DockerOptions(
        pids_limit=4096, shm_size_bytes=1024**3, image=docker_pb2.DockerImageOptions()
    )


def test_every_field_is_read() -> None:
    options = resolve(
        template(
            memory="16GiB",
            cpus="0.5",
            pids="-1",
            shm_size="512MB",
            gpus="2",
            environment={
                "A": "x$$y",
                "RUN": "${run_id}/${run_name}/${job}/${queue}/${author}",
                "I": "${image}",
            },
            mounts=[
                docker_pb2.DockerMount(source="/data//sets/", target="/data"),
                docker_pb2.DockerMount(source="cache", target="/workspace/cache", writable=True),
            ],
            network="none",
            user="1000:1000",
            capabilities=["SYS_NICE", "SYS_NICE"],
            read_only_root=True,
            ulimits={"memlock": "-1", "nofile": "65536"},
            image=docker_pb2.DockerImageOptions(
                base_image="localhost:5000/base/python:3.11", pull_policy=docker_pb2.PULL_POLICY_NEVER
            ),
        )
    )
    assert options == docker_pb2.DockerOptions(
        memory_bytes=16 * 1024**3,
        nano_cpus=500_000_000,
        pids_limit=-1,
        shm_size_bytes=512_000_000,
        gpus=2,
        environment={"A": "x$y", "RUN": "r1/first/digits:v0/q/ann", "I": "${image}"},
        mounts=[
            docker_pb2.DockerMount(source="/data/sets", target="/data"),
            docker_pb2.DockerMount(source="cache", target="/workspace/cache", writable=True),
        ],
        network="none",
        user="1000:1000",
        capabilities=["SYS_NICE"],
        read_only_root=True,
        ulimits={"memlock": -1, "nofile": 65536},
        image=docker_pb2.DockerImageOptions(
            base_image="localhost:5000/base/python:3.11", pull_policy=docker_pb2.PULL_POLICY_NEVER
        ),
    )


@pytest.mark.parametrize(
    ("field", "value", "remedy"),
    [
        ("memory", "16", "write a number with a unit"),
        ("memory", "16G", "write a number with a unit"),
        ("memory", "1KB", "at least"),
        ("memory", "99999999999TiB", "at most"),
        ("memory", "-1GiB", "write a number with a unit"),
        ("cpus", "half", 'such as "4"'),
        ("cpus", "0", "at least 0.01"),
        ("cpus", "1e9", 'such as "4"'),
        ("pids", "0", "at least"),
        ("pids", "-2", "at least"),
        ("pids", "many", "whole number"),
        ("shm_size", "big", "with a unit"),
        ("gpus", "1.5", "whole number of GPUs"),
        ("gpus", "-1", "from 0"),
        ("network", "a b", "name of a Docker network"),
        ("network", "container:x", "name of a Docker network"),
        ("user", "root", "uid:gid"),
        ("user", "99999999999", "uid:gid"),
    ],
)
def test_a_wrong_quantity_names_the_field_and_the_remedy(field: str, value: str, remedy: str) -> None:
    assert remedy in problems_of_template(**{field: value})[f"docker.{field}"]


@pytest.mark.parametrize(
    ("docker", "path", "remedy"),
    [
        ({"environment": {"1A": "x"}}, "docker.environment.1A", "letters, digits"),
        ({"environment": {"TOWLINE_RUN": "x"}}, "docker.environment.TOWLINE_RUN", "take another"),
        ({"environment": {"A": "a\0b"}}, "docker.environment.A", "NUL"),
        ({"environment": {"A": "$${image}"}}, "docker.environment.A", "may not hold"),
        ({"capabilities": ["CAP_SYS_NICE"]}, "docker.capabilities[0]", "write SYS_NICE"),
        ({"capabilities": ["ALL"]}, "docker.capabilities[0]", "such as"),
        ({"ulimits": {"files": "1"}}, "docker.ulimits.files", "nofile"),
        ({"ulimits": {"nofile": "-2"}}, "docker.ulimits.nofile", "unlimited"),
        ({"mounts": [{"source": "/a"}]}, "docker.mounts[0].target", "must be given"),
        ({"mounts": [{"target": "/a"}]}, "docker.mounts[0].source", "must be given"),
        ({"mounts": [{"source": "a/b", "target": "/a"}]}, "docker.mounts[0].source", "absolute path"),
        ({"mounts": [{"source": "/a/../b", "target": "/a"}]}, "docker.mounts[0].source", "'..'"),
        ({"mounts": [{"source": "/a:ro", "target": "/a"}]}, "docker.mounts[0].source", "':'"),
        ({"mounts": [{"source": "/a", "target": "a"}]}, "docker.mounts[0].target", "absolute"),
        ({"mounts": [{"source": "/a", "target": "//"}]}, "docker.mounts[0].target", "would hide"),
        ({"mounts": [{"source": "/a", "target": "/workspace/"}]}, "docker.mounts[0].target", "would hide"),
        (
            {"mounts": [{"source": "/a", "target": "//towline/x"}]},
            "docker.mounts[0].target",
            "belongs to Towline",
        ),
        (
            {"mounts": [{"source": "/a", "target": "/x"}, {"source": "/b", "target": "/x/"}]},
            "docker.mounts[1].target",
            "another mount",
        ),
        ({"image": {"base_image": "Python 3"}}, "docker.image.base_image", "docker pull"),
        ({"memory": "${image}"}, "docker.memory", "environment values"),
    ],
)
def test_a_wrong_field_is_named(docker: dict[str, object], path: str, remedy: str) -> None:
    assert remedy in problems_of_template(**docker)[path]


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("{{memory}}", "not declared"),
        ("{{Memory}}", "lower-case"),
        ("{{}}", "lower-case"),
        ("{{memory", "not closed"),
        ("${home}", "unknown macro"),
        ("${run_id", "not closed"),
        ("${{x}}", "not closed"),
    ],
)
def test_wrong_template_text_is_refused(text: str, remedy: str) -> None:
    assert remedy in problems_of_template(environment={"A": text})["docker.environment.A"]


@pytest.mark.parametrize(
    ("declared", "path", "remedy"),
    [
        ([variable("Bad")], "variables[0].name", "lower-case"),
        ([variable("a"), variable("a")], "variables[1].name", "twice"),
        ([variable("a", schema="{")], "variables[0].schema_json", "not JSON"),
        ([variable("a", schema='{"type": "text"}')], "variables[0].schema_json", "no JSON Schema"),
        ([variable("a", schema="3")], "variables[0].schema_json", "must be an object"),
        ([variable("a", default="1")], "variables[0].default_json", "must be text"),
        ([variable("a", default="x")], "variables[0].default_json", "in quotes"),
        ([variable("a", schema='{"maximum": 2}', default="3")], "variables[0].default_json", "at most 2"),
    ],
)
def test_a_wrong_declaration_is_named(
    declared: list[queues_pb2.TemplateVariable], path: str, remedy: str
) -> None:
    assert remedy in problems_of_template(*declared)[path]


def test_all_violations_of_a_template_come_at_once() -> None:
    problems = problems_of_template(variable("a", schema="{"), memory="x", cpus="y", network="{{b}}")
    assert set(problems) == {"variables[0].schema_json", "docker.memory", "docker.cpus", "docker.network"}


def test_a_template_that_its_defaults_break_is_refused_but_a_blank_is_not_guessed() -> None:
    number = '{"type": "integer"}'
    assert "docker.gpus" in problems_of_template(variable("gpus", number, "-3"), gpus="{{gpus}}")
    assert resolve(template(variable("gpus", number), gpus="{{gpus}}"), gpus="2").gpus == 2


def test_values_are_written_as_text() -> None:
    declared = [variable(name, "{}") for name in ("t", "n", "f", "b", "z", "o")]
    made = template(*declared, environment={"A": "{{t}} {{ n }} {{f}} {{b}} {{z}} {{o}}"})
    options = resolve(made, t='"x y"', n="12345678901234567890", f="0.1", b="true", z="null", o='{"k":[1]}')
    assert options.environment["A"] == 'x y 12345678901234567890 0.1 true  {"k":[1]}'


@pytest.mark.parametrize("value", ['"${run_id}"', '"{{other}}"', '"$$"', '"{{"', '"${"'])
def test_a_value_brings_in_nothing(value: str) -> None:
    made = template(variable("v"), variable("other", default='"secret"'), environment={"A": "<{{v}}>"})
    assert resolve(made, v=value).environment["A"] == f"<{value[1:-1]}>"


def test_a_value_cannot_make_the_agents_macro() -> None:
    made = template(
        variable("v"), variable("w", default='"{image}"'), environment={"A": "{{v}}", "B": "{{v}}{{w}}"}
    )
    assert "may not hold" in problems_of_values(made, v='"${image}"')["v"]
    assert "may not hold" in problems_of_values(made, v='"$"')["v"]


def test_a_value_cannot_leave_the_folder_that_the_template_gives() -> None:
    made = template(variable("set"), mounts=[docker_pb2.DockerMount(source="/data/{{set}}", target="/data")])
    assert resolve(made, set='"a/b"').mounts[0].source == "/data/a/b"
    assert "'..'" in problems_of_values(made, set='"../../etc"')["set"]


def test_wrong_values_are_all_named() -> None:
    made = template(
        variable("memory"), variable("size", '{"type":"integer"}'), variable("need"), memory="{{memory}}"
    )
    problems = problems_of_values(made, memory='"lots"', size='"x"', nede="1", other="2")
    assert set(problems) == {"memory", "size", "need", "nede", "other"}
    assert "docker.memory" in problems["memory"]
    assert "whole number" in problems["size"]
    assert "wants a value" in problems["need"]
    assert "did you mean 'need'" in problems["nede"]
    assert "declares memory, size, need" in problems["other"]


@pytest.mark.parametrize("value", ["lots", "", "NaN", '"\\ud800"', "[" * 100_000, '"\\u0000"'])
def test_a_value_that_is_no_usable_json_is_named(value: str) -> None:
    assert set(problems_of_values(template(variable("v", "{}")), v=value)) == {"v"}


def test_gpus_that_the_queue_fixes_say_so() -> None:
    assert "the queue fixes the GPUs" in problems_of_values(template(gpus="1"), gpus="2")["gpus"]


def test_a_jobs_wish_for_gpus_fills_the_blank() -> None:
    made = template(variable("gpus", '{"type": "integer", "maximum": 4}', "1"), gpus="{{gpus}}")
    assert resolve(made).gpus == 1
    assert resolve(made, hints=2).gpus == 2
    assert resolve(made, hints=2, gpus="3").gpus == 3
    assert resolve(made, hints=8).gpus == 1
    assert resolve(template(gpus="1"), hints=2).gpus == 1


names = st.from_regex(r"[a-z_][a-z0-9_]{0,8}", fullmatch=True)
pieces = st.one_of(
    st.text(st.characters(exclude_characters="${}", exclude_categories=["Cs"]), min_size=1),
    names.map(Variable),
    st.sampled_from(["run_id", "author"]).map(Macro),
    st.just("$"),
)


def written(piece: str | Variable | Macro) -> str:
    match piece:
        case Variable(name):
            return f"{{{{{name}}}}}"
        case Macro(name):
            return f"${{{name}}}"
        case text:
            return text.replace("$", "$$")


@given(st.lists(pieces), st.dictionaries(names, st.text(st.characters(exclude_categories=["Cs"]))))
def test_what_is_written_is_read_and_filled_once(
    parts: list[str | Variable | Macro], values: dict[str, str]
) -> None:
    text = placeholders.parse("".join(map(written, parts)))
    assert text.variables == {part.name for part in parts if isinstance(part, Variable)}
    everything = dict.fromkeys(text.variables, "") | values
    expected = "".join(
        everything[part.name]
        if isinstance(part, Variable)
        else MACROS[part.name]
        if isinstance(part, Macro)
        else part
        for part in parts
    )
    if "${image}" not in expected:
        assert text.fill(everything, MACROS) == expected


@given(st.text(st.sampled_from("${} axn_\n")))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        parsed = placeholders.parse(text)
    except ValueError:
        return
    assert placeholders.parse("".join(map(written, parsed.parts))) == parsed


texts = st.one_of(
    st.text(max_size=12),
    st.sampled_from(
        ["16GiB", "{{a}}", "${run_id}", "-1", "/data/{{a}}", "SYS_NICE", "$$", "${image}", "1:1"]
    ),
)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "memory": texts,
            "cpus": texts,
            "pids": texts,
            "gpus": texts,
            "network": texts,
            "user": texts,
            "environment": st.dictionaries(texts, texts, max_size=2),
            "mounts": st.lists(st.fixed_dictionaries({"source": texts, "target": texts}), max_size=2),
            "capabilities": st.lists(texts, max_size=2),
            "ulimits": st.dictionaries(texts, texts, max_size=2),
        },
    ),
    st.text(max_size=12),
)
def test_whatever_is_written_is_refused_or_resolves(docker: dict[str, Any], value: str) -> None:
    try:
        made = template(variable("a", default='""'), **docker)
        options = resolve(made, a=json.dumps(value))
    except InvalidArgument as error:
        assert error.reason in ("INVALID_TEMPLATE", "INVALID_VARIABLE")
        assert error.metadata
        return
    assert all(mount.target.startswith("/") and "/../" not in f"{mount.source}/" for mount in options.mounts)
