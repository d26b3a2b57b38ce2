"""The agent's files: read back as written, and of use whatever was damaged, torn or refused by the disk."""

import json
import os
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from towline.errors import AlreadyExists
from towline.v1 import leases_pb2, runs_pb2
from towline_agent.core import records
from towline_agent.core.failures import EndedBy, ExitStatus, succeeded
from towline_agent.core.ownership import attempt_key
from towline_agent.core.stops import Exit, Signalled, StopReason
from towline_agent.deadlines import Deadline, note_expired
from towline_agent.journal import Identity, Journal, locked

GRANT = leases_pb2.Grant(lease_id="lease-1", epoch=3, spec=runs_pb2.LaunchSpec(run="runs/a"))
FINISH = leases_pb2.Finish(lease_id="lease-1", epoch=3, finish_id="finish-1", result=succeeded())
EXIT = Exit(ExitStatus(3, oom_killed=True, error="why"), 40.5, 1000, EndedBy.OUTSIDE)
STOP = Signalled(StopReason.PREEMPTED, 39.5, timedelta(seconds=15))
BEFORE = -float("inf")


def folder(root: Path) -> Path:
    return root / "attempts" / attempt_key(GRANT.spec.run, GRANT.epoch)


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    made = Journal(tmp_path, "boot-1")
    made.granted(GRANT)
    made.started(GRANT, 7.5)
    made.started(GRANT, 9.5)  # an agent that finds the container again
    made.stopping(GRANT, STOP)
    made.exited(GRANT, EXIT)
    made.finished(GRANT, FINISH)
    return made


def test_what_was_written_is_read(journal: Journal, tmp_path: Path) -> None:
    (record,) = Journal(tmp_path, "boot-1").records()
    assert (record.grant, record.finish) == (GRANT, FINISH)
    assert (record.started_at, record.signalled, record.exit) == (7.5, STOP, EXIT)


def test_what_another_boot_has_written_was_before_this_one(journal: Journal, tmp_path: Path) -> None:
    (record,) = Journal(tmp_path, "boot-2").records()
    assert record.exit and record.signalled
    assert record.started_at == record.exit.at == record.signalled.at == BEFORE
    assert record.exit.status == EXIT.status and record.finish == FINISH


@pytest.mark.parametrize("name", ["started", "stop", "exit", "finish"])
@pytest.mark.parametrize("damage", [b"", b"\xff\xff\xff", b"{}", b"[1]", b'{"boot_id": "boot-1", "at": "x"}'])
def test_a_damaged_record_counts_as_not_written(
    journal: Journal, tmp_path: Path, name: str, damage: bytes
) -> None:
    (folder(tmp_path) / name).write_bytes(damage)
    (record,) = Journal(tmp_path, "boot-1").records()
    read = {
        "started": record.started_at,
        "stop": record.signalled,
        "exit": record.exit,
        "finish": record.finish,
    }
    assert [field for field, value in read.items() if value is None] == [name]


@given(st.sampled_from(["started", "stop", "exit", "finish"]), st.binary(max_size=64))
def test_no_record_stops_an_agent_from_starting(
    tmp_path_factory: pytest.TempPathFactory, name: str, damage: bytes
) -> None:
    root = tmp_path_factory.mktemp("journal")
    Journal(root, "boot-1").granted(GRANT)
    (folder(root) / name).write_bytes(damage)
    assert len(Journal(root, "boot-1").records()) == 1


@pytest.mark.parametrize("damage", [b"", b"\xff", leases_pb2.Grant(epoch=1).SerializeToString()])
def test_a_grant_that_is_not_whole_was_never_accepted(
    journal: Journal, tmp_path: Path, damage: bytes
) -> None:
    (folder(tmp_path) / "grant").write_bytes(damage)
    assert journal.records() == [] and not folder(tmp_path).exists()


def test_a_grant_that_was_not_written_to_its_end_was_never_accepted(tmp_path: Path) -> None:
    made = Journal(tmp_path, "boot-1")
    folder(tmp_path).mkdir()
    (folder(tmp_path) / "grant.partial").write_bytes(b"x")
    assert made.records() == [] and not folder(tmp_path).exists()


def test_a_note_of_the_watchdog_is_a_signal(tmp_path: Path) -> None:
    made = Journal(tmp_path, "boot-1")
    made.granted(GRANT)
    deadline = Deadline("lease-1", 3, "runs/a", "c", "SIGTERM", 1.0, 2.0, "LEASE_EXPIRED")
    note_expired(tmp_path, deadline, 1.5)
    assert made.records()[0].signalled == Signalled(StopReason.EXPIRED, 1.5)
    note_expired(tmp_path, deadline, 1e12)  # later than now: of a boot that was up for longer
    assert made.records()[0].signalled == Signalled(StopReason.EXPIRED, BEFORE)
    note_expired(tmp_path, deadline, 0.5)
    made.stopping(GRANT, STOP)
    (both,) = made.records()
    assert both.signalled == Signalled(StopReason.PREEMPTED, 0.5), "the first signal, the strongest reason"


def test_what_is_forgotten_is_gone(journal: Journal, tmp_path: Path) -> None:
    journal.forget(GRANT)
    journal.forget(GRANT)
    assert journal.records() == [] and not folder(tmp_path).exists()


def test_starts_are_counted_and_the_work_folder_is_emptied(tmp_path: Path) -> None:
    first = Journal(tmp_path, "boot-1").start()
    (tmp_path / "work" / "left").mkdir()
    (tmp_path / "work" / "over").touch()
    again = Journal(tmp_path, "boot-1")
    assert again.start() == Identity(first.instance_id, 2)
    assert not list((tmp_path / "work").iterdir())


def test_a_disk_that_takes_nothing_does_not_keep_an_agent_from_starting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Journal(tmp_path, "boot-1").start()
    replace = Path.replace

    def full(self: Path, target: Path) -> Path:
        if self.name == "agent.json.partial":
            raise OSError(28, "No space left on device")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", full)
    assert Journal(tmp_path, "boot-1").start() == Identity(first.instance_id, 2)
    assert json.loads((tmp_path / "agent.json").read_text())["starts"] == 2


@given(
    reason=st.sampled_from(StopReason),
    at=st.floats(0, 1e9),
    grace=st.none() | st.timedeltas(timedelta(0), timedelta(days=10)),
)
def test_stops_are_read_as_written(reason: StopReason, at: float, grace: timedelta | None) -> None:
    stop = Signalled(reason, at, grace)
    assert records.parse_stop(records.dump_stop(stop, "b"), "b") == stop


def test_one_agent_holds_a_folder(tmp_path: Path) -> None:
    refused = pytest.raises(AlreadyExists, match=f"already running as pid {os.getpid()}")
    with locked(tmp_path), refused, locked(tmp_path):
        pass
    with locked(tmp_path):
        assert (tmp_path / "agent.lock").read_text() == str(os.getpid())
