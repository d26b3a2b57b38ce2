"""What sessions decide: names, verdicts, credits, health, lease ids, policies."""

import hashlib
from datetime import timedelta
from uuid import uuid4

import pytest
from google.protobuf.duration_pb2 import Duration
from hypothesis import given, settings
from hypothesis import strategies as st

from towline.errors import AlreadyExists, InvalidArgument
from towline.v1 import queues_pb2
from towline_queue.core.credits import Credits
from towline_queue.core.health import Health
from towline_queue.core.lease_ids import AttemptKey, lease_id, parse_lease_id
from towline_queue.core.lease_policy import DEFAULT, LeasePolicy, policy_of, strictest
from towline_queue.core.reports import Progress, fold_progress
from towline_queue.core.sessions import (
    Attempt,
    CurrentSession,
    HeldLease,
    Inventory,
    InventoryEntry,
    VerdictKind,
    admit,
    lease_set_digest,
    reconcile,
)
from towline_queue.core.stops import StopReason
from towline_queue.core.transitions import State

unhurried = settings(deadline=None)  # machines that run tests are busy

ONE, TWO, THREE = AttemptKey("runs/one", 1), AttemptKey("runs/two", 4), AttemptKey("runs/three", 2)


def entry(key: AttemptKey, state: State = State.RUNNING) -> InventoryEntry:
    return InventoryEntry(lease_id(key), key.epoch, key, state)


@unhurried
@given(st.from_regex(r"runs/[a-z0-9-]{1,64}", fullmatch=True), st.integers(1, 10**17))
def test_a_lease_id_comes_back_as_it_was(run: str, epoch: int):
    key = AttemptKey(run, epoch)
    assert parse_lease_id(lease_id(key), epoch) == key
    assert parse_lease_id(lease_id(key), epoch + 1) is None


@unhurried
@given(st.text(), st.integers(-(2**63), 2**63 - 1))
def test_any_other_text_is_no_lease_id(text: str, epoch: int):
    key = parse_lease_id(text, epoch)
    assert key is None or lease_id(key) == text


def test_the_digest_is_that_of_the_proto():
    lines = b"one.1:1\ntwo.4:4\n"
    assert lease_set_digest([TWO, ONE]) == hashlib.sha256(lines).hexdigest()


def test_a_name_belongs_to_whoever_is_alive():
    alive = CurrentSession("a", "node-1", timedelta(seconds=29), timedelta(seconds=30))
    silent = CurrentSession("a", "node-1", timedelta(seconds=30), timedelta(seconds=30))
    admit("agents/x", "b", None)
    admit("agents/x", "a", alive)
    admit("agents/x", "b", silent)
    with pytest.raises(AlreadyExists, match="node-1"):
        admit("agents/x", "b", alive)


def test_verdicts():
    leases = [
        HeldLease(ONE, accepted=True, stop=None),
        HeldLease(TWO, accepted=True, stop=StopReason.CANCELLED),
        HeldLease(THREE, accepted=True, stop=StopReason.PREEMPTED),
    ]
    done, stale, unknown = AttemptKey("runs/done", 2), AttemptKey("runs/one", 9), AttemptKey("runs/no", 1)
    entries = [entry(key) for key in (ONE, TWO, THREE, done, stale, unknown)]
    entries.append(InventoryEntry("nonsense", 1, None, State.LEASED))
    outcome = reconcile(
        Inventory(entries),
        leases,
        {done: Attempt(finished=True)},
        {"runs/one", "runs/two", "runs/three", "runs/done"},
    )
    assert [verdict for _, verdict in outcome.verdicts] == [
        VerdictKind.ADOPT,
        VerdictKind.STOP_CANCELLED,
        VerdictKind.STOP_PREEMPTED,
        VerdictKind.FINISH_CONFIRMED,
        VerdictKind.STOP_STALE,
        VerdictKind.STOP_UNKNOWN,
        VerdictKind.STOP_UNKNOWN,
    ]
    assert outcome.adopted == dict.fromkeys((ONE, TWO, THREE), State.RUNNING)
    assert (outcome.never_started, outcome.lost) == ([], [])


@pytest.mark.parametrize("accepted", [True, False])
def test_a_missing_lease_is_over_only_where_the_agent_can_speak_for_it(accepted: bool):
    leases = [HeldLease(ONE, accepted, stop=None)]
    over = reconcile(Inventory([]), leases, {}, set())
    assert (over.lost if accepted else over.never_started) == [ONE]
    for speaks_for in (set(), {TWO}):
        kept = reconcile(Inventory([], speaks_for), leases, {}, set())
        assert (kept.lost, kept.never_started) == ([], [])


def test_credits_count_grants_the_agent_has_not_seen():
    credits = Credits()
    credits.told(1, 3, {"a", "b"}, grant_seq_seen=0)
    first = credits.take(["a"])
    assert (credits.free_slots, credits.free_gpus) == (2, {"b"})
    credits.told(1, 3, {"a", "b"}, grant_seq_seen=0)  # said before the grant arrived
    assert (credits.free_slots, credits.free_gpus) == (2, {"b"})
    credits.told(1, 2, {"b"}, grant_seq_seen=first)
    assert (credits.free_slots, credits.free_gpus) == (2, {"b"})


def test_credits_that_are_held_for_a_claim_are_freed_by_nothing_that_is_said_meanwhile():
    credits = Credits()
    credits.told(1, 3, {"a", "b"}, grant_seq_seen=0)
    credits.hold(2, ["b"])
    credits.told(2, 3, {"a", "b"}, grant_seq_seen=0)
    assert (credits.free_slots, credits.free_gpus) == (1, {"a"})
    credits.release()
    assert (credits.free_slots, credits.free_gpus) == (3, {"a", "b"})


def test_an_older_word_about_credits_is_ignored():
    credits = Credits()
    credits.told(5, 1, {"a"}, 0)
    credits.told(4, 8, {"a", "b"}, 0)
    assert (credits.free_slots, credits.free_gpus) == (1, {"a"})
    credits.distrust()
    assert (credits.free_slots, credits.free_gpus) == (0, frozenset())
    credits.told(5, 1, {"a"}, 0)
    assert credits.free_slots == 1


@unhurried
@given(st.lists(st.tuples(st.integers(0, 5), st.booleans())))
def test_credits_never_drift(steps: list[tuple[int, bool]]):
    """Whatever is lost or repeated, after the next word the credits are what the agent says."""
    credits = Credits()
    last = 0
    for slots, lost in steps:
        if not lost:
            credits.told(1, slots, frozenset(), last)
            assert credits.free_slots == slots
        while credits.free_slots:
            last = credits.take([])
    credits.told(1, 2, frozenset(), last)
    assert credits.free_slots == 2


def test_health_begins_anew_after_a_failure_and_after_a_stall():
    health = Health(stall=timedelta(seconds=5))
    assert [health.seen_at(moment).total_seconds() for moment in (100, 104, 109)] == [0, 4, 9]
    assert health.seen_at(115).total_seconds() == 0
    assert health.seen_at(116).total_seconds() == 1
    health.failed()
    assert health.seen_at(117).total_seconds() == 0


def progress(seq: int, state: State, **fields: object) -> Progress:
    return Progress(ONE, seq, state, **fields)


def test_progress_of_one_attempt_becomes_one_change():
    (folded,) = fold_progress(
        [
            progress(1, State.PREPARING, detail="builds", image_outcome=1, image_id="sha256:x"),
            progress(3, State.RUNNING, detail="runs"),
            progress(2, State.PREPARING, detail="late"),
            progress(3, State.STOPPING, detail="repeated"),
        ]
    )
    assert (folded.event_seq, folded.state, folded.detail) == (3, State.RUNNING, "runs")
    assert (folded.image_outcome, folded.image_id) == (1, "sha256:x")
    assert folded.passed == {State.PREPARING, State.RUNNING}
    assert len(fold_progress([progress(1, State.PREPARING), Progress(TWO, 1, State.PREPARING)])) == 2


def policy_message(**seconds: float) -> queues_pb2.LeasePolicy:
    durations = {}
    for name, value in seconds.items():
        durations[name] = Duration()
        durations[name].FromTimedelta(timedelta(seconds=value))
    return queues_pb2.LeasePolicy(**durations)


def test_a_policy_takes_defaults_and_milliseconds():
    assert policy_of(queues_pb2.LeasePolicy()) == DEFAULT
    given_times = policy_message(
        heartbeat_interval=0.01, disconnected_after=0.05, lost_after=0.2, stop_grace=0
    )
    assert policy_of(given_times).heartbeat_interval == timedelta(milliseconds=10)


@pytest.mark.parametrize(
    ("times", "field"),
    [
        ({"heartbeat_interval": 0}, "heartbeat_interval"),
        ({"heartbeat_interval": -1}, "heartbeat_interval"),
        ({"heartbeat_interval": 30}, "disconnected_after"),
        ({"disconnected_after": 120}, "lost_after"),
        ({"lost_after": 30}, "lost_after"),
        ({"lost_after": 31 * 24 * 3600}, "lost_after"),
        ({"stop_grace": -0.1}, "stop_grace"),
    ],
)
def test_a_policy_out_of_order_names_its_field(times: dict[str, float], field: str):
    with pytest.raises(InvalidArgument) as caught:
        policy_of(policy_message(**times))
    assert caught.value.metadata == {"field": f"spec.lease_policy.{field}"}


def test_a_session_of_several_queues_promises_what_the_strictest_allows():
    long = LeasePolicy(lost_after=timedelta(hours=8), heartbeat_interval=timedelta(seconds=1))
    assert strictest([DEFAULT, long]) == LeasePolicy(heartbeat_interval=timedelta(seconds=1))
    assert strictest([]) == DEFAULT


def test_ids_of_sessions_are_no_lease_ids():
    assert parse_lease_id(str(uuid4()), 1) is None
