"""Settings of an agent, from its environment."""

import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from towline.errors import InvalidArgument
from towline_agent import gpus
from towline_agent.settings import AgentSettings


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("TOWLINE_"):
            monkeypatch.delenv(name)


def test_defaults(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    settings = AgentSettings()
    assert settings.agent_name.startswith("agents/")
    assert settings.queue_names == ["queues/default"]
    assert settings.data_dir == tmp_path / "towline/agent"
    assert settings.listen == f"unix:{tmp_path}/towline/agent/agent.sock"


@pytest.mark.parametrize("written", ["a, b,", '["a", "queues/b"]'])
def test_lists_are_written_with_commas_or_as_json(monkeypatch: pytest.MonkeyPatch, written: str) -> None:
    monkeypatch.setenv("TOWLINE_AGENT_QUEUES", written)
    monkeypatch.setenv("TOWLINE_AGENT_LABELS", "zone=a,disk=ssd")
    monkeypatch.setenv("TOWLINE_AGENT_BUILD_SECRETS", "token=/etc/token, pip=/etc/pip.conf")
    settings = AgentSettings()
    assert settings.build_secrets == {"token": Path("/etc/token"), "pip": Path("/etc/pip.conf")}
    assert settings.queue_names == ["queues/a", "queues/b"]
    assert settings.labels == {"zone": "a", "disk": "ssd"}


def test_what_is_wrong_is_named() -> None:
    with pytest.raises(InvalidArgument, match="TOWLINE_AGENT_AGENT"):
        assert AgentSettings(agent="a b").agent_name
    with pytest.raises(InvalidArgument, match="TOWLINE_AGENT_QUEUES"):
        assert AgentSettings(queues=("A",)).queue_names
    with pytest.raises(ValidationError, match="queues"):
        AgentSettings(queues=())
    with pytest.raises(ValidationError, match="slots"):
        AgentSettings(slots=0)
    with pytest.raises(ValidationError, match="'3' is no version of Python"):
        AgentSettings(ready_pythons=("3.12", "3"))
    with pytest.raises(ValidationError, match="'a b' is no image reference"):
        AgentSettings(ready_images=("python:3.12-slim", "a b"))
    for secret in ({"token": Path()}, {"": Path("/etc/token")}):
        with pytest.raises(ValidationError, match="write ID=FILE, with the whole path of the file"):
            AgentSettings(build_secrets=secret)
    with pytest.raises(ValidationError, match="dockerfile_builder"):
        AgentSettings(dockerfile_builder="kaniko")  # type: ignore[arg-type] # what an environment may hold
    with pytest.raises(ValidationError, match="too long for a socket"):
        AgentSettings(data_dir=Path("/" + "x" * 120))


def test_listed_gpus() -> None:
    assert gpus.find("none") == ()
    assert [gpu.id for gpu in gpus.find("GPU-a, MIG-b")] == ["GPU-a", "MIG-b"]
    for wrong in ("0", "GPU-a,GPU-a"):
        with pytest.raises(InvalidArgument, match="TOWLINE_AGENT_GPUS"):
            gpus.find(wrong)


def test_a_node_without_nvml_has_no_gpus() -> None:
    assert all(gpu.id for gpu in gpus.find("auto"))


def test_a_repository_is_checked_at_the_start() -> None:
    assert AgentSettings(image_repository="images:5000/towline").image_repository == "images:5000/towline"
    with pytest.raises(ValidationError, match="without a tag"):
        AgentSettings(image_repository="images:5000/towline:latest")
