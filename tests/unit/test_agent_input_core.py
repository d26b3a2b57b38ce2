"""Inputs, as far as they can be decided without an engine: mounts, files of parameters, which volume goes."""

import json
from typing import Any

from towline.v1 import docker_pb2, jobs_pb2, leases_pb2, runs_pb2
from towline_agent.core import inputs
from towline_agent.core.containers import ImageFacts, Owner, container_config
from towline_agent.core.inputs import Stored


def grant(**docker: Any) -> leases_pb2.Grant:
    job = jobs_pb2.JobSpec(code=jobs_pb2.CodeSource())
    spec = runs_pb2.LaunchSpec(run="runs/r", job=job, docker=docker_pb2.DockerOptions(**docker))
    return leases_pb2.Grant(lease_id="l", epoch=3, attempt=1, spec=spec)


def mounts_of(one: leases_pb2.Grant, **volumes: str) -> list[dict[str, Any]]:
    mounts = inputs.input_mounts(volumes)
    config = container_config(one, ImageFacts("sha256:i"), Owner("agents/x", "instance"), mounts)
    found: list[dict[str, Any]] = config["HostConfig"]["Mounts"]
    return found


def test_inputs_are_mounted_read_only() -> None:
    _, *mounts = mounts_of(grant(), data="v1", base="v2")
    assert [(mount["Source"], mount["Target"], mount["ReadOnly"]) for mount in mounts] == [
        ("v2", "/towline/inputs/base", True),
        ("v1", "/towline/inputs/data", True),
    ]


def test_configuration_files_have_the_runs_parameters() -> None:
    one = grant(read_only_root=True)
    one.spec.config_json = '{"model": {"depth": 4, "name": "\u00e9"}, "lr": 0.1}'
    assert inputs.config_files(one.spec) == {}
    one.spec.job.config_files.add(path="conf/model.yaml", key="model")
    one.spec.job.config_files.add(path="other.json", key="gone")
    (content,) = inputs.config_files(one.spec).values()
    assert json.loads(content) == {"depth": 4, "name": "\u00e9"}
    # No file can be put into a read-only root, so the source tree is in a volume then.
    volume = mounts_of(one)[1]
    assert volume["Target"] == "/workspace" and "NoCopy" not in volume["VolumeOptions"]
    one.spec.job.image.reference = "x"
    assert inputs.config_files(one.spec) == {}


def test_progress_is_told_in_one_unit() -> None:
    version = "artifacts/mnist/versions/v3"
    assert inputs.progress("data", version, 1288490189, 2 * 2**30) == (
        "getting input data (mnist:v3), 1.2 of 2.0 GiB"
    )
    assert inputs.progress("data", version, 0, 0) == "getting input data (mnist:v3), 0 of 0 B"
    assert inputs.progress("data", version, 5, 1023) == "getting input data (mnist:v3), 5 of 1023 B"


def test_what_was_used_longest_ago_goes_first() -> None:
    kept = [Stored(f"sha256:{n}", 1, f"v{n}", used) for n, used in enumerate((3.0, 1.0, 2.0, 1.0))]
    assert [one.volume for one in inputs.oldest_first(kept)] == ["v1", "v3", "v2", "v0"]


def test_a_volume_is_named_for_its_content() -> None:
    assert inputs.volume_name("sha256:0123456789abcdef", "77") == "towline-input-0123456789ab-77"
