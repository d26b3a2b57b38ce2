"""Settings, identity and the journal of an agent."""

import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from towline.errors import AlreadyExists, InvalidArgument
from towline.v1 import leases_pb2, runs_pb2
from towline_agent import gpus
from towline_agent.journal import Journal, locked
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
    settings = AgentSettings()
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


def grant(run: str = "runs/a", epoch: int = 2) -> leases_pb2.Grant:
    return leases_pb2.Grant(lease_id="l", epoch=epoch, spec=runs_pb2.LaunchSpec(run=run))


def test_identity_is_kept_and_starts_are_counted(tmp_path: Path) -> None:
    first, second = Journal(tmp_path).start(), Journal(tmp_path).start()
    assert first.instance_id == second.instance_id
    assert (first.starts, second.starts) == (1, 2)


def test_attempts_are_kept_until_forgotten(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.granted(grant())
    journal.granted(grant("runs/b"))
    finish = leases_pb2.Finish(finish_id="f")
    journal.finished(grant("runs/b"), finish)
    one, two = Journal(tmp_path).records()
    assert (one.grant, one.finish) == (grant(), None)
    assert (two.grant, two.finish) == (grant("runs/b"), finish)
    journal.forget(grant())
    assert len(journal.records()) == 1


def test_a_grant_that_was_not_written_whole_was_never_accepted(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    folder = tmp_path / "attempts/a-2"
    folder.mkdir()
    (folder / "grant.partial").write_bytes(b"x")
    assert journal.records() == []
    assert not folder.exists()


def test_temporary_files_do_not_survive_a_start(tmp_path: Path) -> None:
    (Journal(tmp_path).work / "left").touch()
    assert not list(Journal(tmp_path).work.iterdir())


def test_one_agent_holds_a_folder(tmp_path: Path) -> None:
    refused = pytest.raises(AlreadyExists, match=f"already running as pid {os.getpid()}")
    with locked(tmp_path), refused, locked(tmp_path):
        pass
    with locked(tmp_path):
        assert (tmp_path / "agent.lock").read_text() == str(os.getpid())
