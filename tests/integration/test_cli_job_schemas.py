"""`towline job create code --schema` and `--config-file`: what a submission may set, said by hand."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from towline.client import Client, Endpoints
from towline.v1 import jobs_pb2
from towline_testing.command import towline

if TYPE_CHECKING:
    import subprocess

Create = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def create(endpoints: Endpoints, tmp_path: Path) -> Create:
    """Write files into a folder and make a job of the script in it."""
    where = {"TOWLINE_REGISTRY_ADDRESS": endpoints.registry, "TOWLINE_QUEUE_ADDRESS": endpoints.queue}

    def create(*options: str, code: int = 0, **files: str) -> "subprocess.CompletedProcess[str]":
        for name, text in ({"fit.py": "print(1)\n"} | files).items():
            (tmp_path / name).write_text(text)
        words = ("job", "create", "code", "--requirements", "r.txt", *options, "--", "python", "fit.py")
        (tmp_path / "r.txt").write_text("")
        done = towline(*words, env=where, cwd=tmp_path)
        assert done.returncode == code, done.stderr
        return done

    return create


def spec_of(endpoints: Endpoints, job: str) -> jobs_pb2.JobSpec:
    with Client(endpoints) as client:
        return client.jobs.get(job).spec


def test_a_schema_by_hand_goes_in_place_of_the_types(create: Create, endpoints: Endpoints) -> None:
    schema = "type: object\nproperties:\n  lr: {type: number, maximum: 1}\n"

    create(
        "--name",
        "by-hand",
        "--config",
        "c.yaml",
        "--schema",
        "s.yaml",
        **{"c.yaml": "lr: 0.5", "s.yaml": schema},
    )
    create("--name", "by-types", "--config", "c.yaml", **{"c.yaml": "lr: 0.5\nepochs: 3\n"})

    written = json.loads(spec_of(endpoints, "by-hand").input_schema_json)
    assert written["properties"] == {"lr": {"type": "number", "maximum": 1}}
    derived = json.loads(spec_of(endpoints, "by-types").input_schema_json)
    assert derived["properties"] == {"epochs": {"type": "integer"}, "lr": {"type": "number"}}


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ("type: objekt", "--schema s.yaml: is no JSON Schema (Draft 2020-12): type: "),
        ("properties: {lr: {minimum: low}}", "properties.lr.minimum"),
        ("[1]", "--schema s.yaml: must hold an object"),
        ("properties: {lr: {maximum: 0.1}}", "--config c.yaml: lr: the default does not fit"),
        ("$ref: https://host.example/s", "--schema s.yaml"),
    ],
)
def test_what_is_no_schema_is_refused_with_the_place(create: Create, schema: str, said: str) -> None:
    error = create(
        *("--name", "bad", "--config", "c.yaml", "--schema", "s.yaml"),
        code=2,
        **{"c.yaml": "lr: 0.5", "s.yaml": schema},
    ).stderr

    assert said in error
    assert "spec." not in error


def test_the_content_of_a_config_file_becomes_a_parameter(create: Create, endpoints: Endpoints) -> None:
    create("--name", "files", "--config-file", "model=m.yaml", **{"m.yaml": "depth: 2\n"})
    wrong = create("--name", "files", "--config-file", "model=gone.yaml", code=2).stderr

    spec = spec_of(endpoints, "files")
    assert json.loads(spec.config_json) == {"model": {"depth": 2}}
    assert [(file.path, file.key) for file in spec.config_files] == [("m.yaml", "model")]
    assert wrong.startswith("error: --config-file: the config file model=")
