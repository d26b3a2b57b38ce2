"""The agent's side of a session, message by message, without a wire or a clock."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration

from towline.errors import Internal, Unavailable
from towline.v1 import docker_pb2, leases_pb2, runs_pb2
from towline_agent.core import effects as fx
from towline_agent.core import phases, protocol
from towline_agent.core.capacity import Capacity, lease_set_digest
from towline_agent.core.effects import Effect
from towline_agent.core.failures import succeeded
from towline_agent.core.lease import Key
from towline_agent.core.leases import LeaseBook
from towline_agent.core.phases import Phase
from towline_agent.core.protocol import TRANSITIONS, AgentSession, SessionState
from towline_agent.core.stops import StopReason, stopped_result

ARCHITECTURE = (Path(__file__).parents[2] / "ARCHITECTURE.md").read_text()


def seconds(value: float) -> Duration:
    made = Duration()
    made.FromTimedelta(timedelta(seconds=value))
    return made


def said(**fields: Any) -> leases_pb2.StreamLeasesResponse:
    return leases_pb2.StreamLeasesResponse(**fields)


class Peers:
    """A book and its session, opened at a moment of a clock that the test moves."""

    def __init__(self, book: LeaseBook | None = None, *, opened: bool = True, at: float = 100.0) -> None:
        self.book = book or LeaseBook(Capacity(4, ()), 0, lambda: "finish-1")
        self.book.engine(ready=True)
        self.now = at
        self.session = AgentSession(self.book, leases_pb2.Hello(agent="agents/a"), "session-0")
        self.hello = self.session.hello(at).hello
        if opened:
            self.hear(welcome=self.welcome())

    def welcome(self, action: int = leases_pb2.VERDICT_ACTION_ADOPT) -> leases_pb2.Welcome:
        verdicts = [
            leases_pb2.Verdict(lease_id=entry.lease_id, epoch=entry.epoch, action=action)  # type: ignore[arg-type] # an enum's value is an int
            for entry in self.hello.inventory
        ]
        return leases_pb2.Welcome(session_id="session-1", heartbeat_interval=seconds(5), verdicts=verdicts)

    def hear(self, **fields: Any) -> list[Effect]:
        """Take a message, and have the journal keep at once what comes with it."""
        effects = self.session.received(said(**fields), self.now)
        for effect in list(effects):
            if isinstance(effect, fx.KeepGrant):
                effects += self.book.grant_kept(effect.key, self.now)
        return effects

    def say(self) -> leases_pb2.StreamLeasesRequest:
        return self.session.to_send(self.now) or leases_pb2.StreamLeasesRequest()

    def grant(self, lease_id: str = "lease-1", seq: int = 1) -> leases_pb2.Grant:
        spec = runs_pb2.LaunchSpec(run=f"runs/{lease_id}", docker=docker_pb2.DockerOptions())
        return leases_pb2.Grant(lease_id=lease_id, epoch=1, ttl=seconds(80), spec=spec, grant_seq=seq)

    def acknowledge(self, seq: int, *lost: str) -> list[Effect]:
        return self.hear(renewed=leases_pb2.Renewed(ack_seq=seq, lost_lease_ids=lost))

    def valid_from(self, key: Key = ("lease-1", 1)) -> float:
        lease = self.book.find(key)
        assert lease
        return lease.renewed_at


def permits(effects: list[Effect]) -> list[str]:
    return [effect.key[0] for effect in effects if isinstance(effect, fx.Permit)]


# --- opening


def test_nothing_is_said_between_hello_and_welcome() -> None:
    peers = Peers(opened=False)
    assert peers.hello.agent == "agents/a" and peers.hello.session_id == "session-0"
    assert peers.session.to_send(peers.now) is None and peers.session.next_beat() == float("inf")
    peers.hear(welcome=peers.welcome())
    assert peers.session.session_id == "session-1"
    assert peers.say().heartbeat.free_slots == 4


def test_an_answer_that_is_no_welcome_ends_the_session() -> None:
    with pytest.raises(Unavailable):
        Peers(opened=False).hear(renewed=leases_pb2.Renewed(ack_seq=1))


def test_a_session_is_opened_once() -> None:
    with pytest.raises(Internal, match="open cannot hello"):
        Peers().session.hello(1)


def test_a_verdict_renews_from_when_the_hello_was_sent() -> None:
    first = Peers()
    first.hear(grants=[first.grant()])
    second = Peers(first.book, opened=False, at=130)
    assert [entry.lease_id for entry in second.hello.inventory] == ["lease-1"]
    second.now = 133
    assert permits(second.hear(welcome=second.welcome())) == ["lease-1"]
    assert second.valid_from() == 130


@pytest.mark.parametrize(
    ("action", "reason"),
    [
        (leases_pb2.VERDICT_ACTION_STOP_CANCELLED, "CANCELLED"),
        (leases_pb2.VERDICT_ACTION_STOP_PREEMPTED, "PREEMPTED"),
    ],
)
def test_a_verdict_that_stops(action: int, reason: str) -> None:
    first = Peers()
    first.hear(grants=[first.grant()])
    second = Peers(first.book, opened=False)
    effects = second.hear(welcome=second.welcome(action))
    assert [e.stop.reason.word for e in effects if isinstance(e, fx.StopContainer)] == [reason]


# --- renewal


def test_a_grant_is_as_old_as_the_last_word_that_was_acknowledged_before_it() -> None:
    peers = Peers()
    peers.hear(grants=[peers.grant("lease-1")])
    assert peers.valid_from() == 100, "of the Hello"
    peers.now = 105
    beat = peers.say().heartbeat
    peers.now = 107
    peers.acknowledge(beat.seq)
    peers.now = 108
    peers.hear(grants=[peers.grant("lease-2", 2)])
    assert peers.valid_from(("lease-2", 1)) == 105


def test_a_renewal_counts_for_what_was_taken_when_its_heartbeat_was_sent() -> None:
    peers = Peers()
    peers.hear(grants=[peers.grant("lease-1")])
    first = peers.say()
    assert first.grant_replies[0].accepted and first.HasField("heartbeat"), "said together"
    peers.now = 102
    peers.hear(grants=[peers.grant("lease-2", 2)])
    assert permits(peers.acknowledge(first.heartbeat.seq)) == ["lease-1"]
    second = peers.say()
    peers.now = 103
    assert permits(peers.acknowledge(second.heartbeat.seq)) == ["lease-2"]
    assert peers.valid_from() == 102, "from when it was sent, not from when its answer came"


def test_what_is_lost_is_not_renewed() -> None:
    peers = Peers()
    peers.hear(grants=[peers.grant()])
    beat = peers.say().heartbeat
    effects = peers.acknowledge(beat.seq, "lease-1")
    assert permits(effects) == []
    assert [effect.key[0] for effect in effects if isinstance(effect, fx.Clean)] == ["lease-1"]


@pytest.mark.parametrize("seq", [0, 7, -1])
def test_an_acknowledgement_of_what_was_never_said_renews_nothing(seq: int) -> None:
    peers = Peers()
    peers.hear(grants=[peers.grant()])
    peers.say()
    peers.now = 110
    assert permits(peers.acknowledge(seq)) == [] and peers.valid_from() == 100


def test_heartbeats_come_in_time_and_when_credits_change() -> None:
    peers = Peers()
    assert peers.say().heartbeat.seq == 1
    assert peers.session.to_send(104.9) is None and peers.session.next_beat() == 105
    assert peers.session.to_send(105)
    peers.book.engine(ready=False)
    beat = peers.say().heartbeat
    assert beat.free_slots == 0 and beat.capacity_gen == peers.book.intake.generation


def test_a_service_with_many_agents_says_when_the_next_heartbeat_is_to_come() -> None:
    peers = Peers()
    assert peers.say().heartbeat.seq == 1
    peers.now = 102
    peers.hear(renewed=leases_pb2.Renewed(ack_seq=1, heartbeat_interval=seconds(18)))
    assert peers.session.next_beat() == 120
    assert peers.session.silent_at == 161  # three of the new ones, and 5 s
    peers.now = 120
    assert peers.say().heartbeat.seq == 2
    assert peers.session.next_beat() == 138


def test_silence_is_noticed() -> None:
    peers = Peers()
    assert peers.session.silent_at == 120  # three intervals of 5 s, and 5 s
    peers.now = 111
    peers.hear(drain=leases_pb2.Drain())
    assert peers.session.silent_at == 131


# --- what is said


def test_many_results_are_said_in_messages_that_a_channel_takes() -> None:
    ids = iter(range(1000))
    book = LeaseBook(Capacity(250, ()), 0, lambda: f"finish-{next(ids)}")
    peers = Peers(book)
    for number in range(250):
        peers.hear(grants=[peers.grant(f"lease-{number}", number + 1)])
        book.ended((f"lease-{number}", 1), succeeded())
        book.finish_kept((f"lease-{number}", 1))
    counts, said_ids = [], set()
    while request := peers.session.to_send(peers.now):
        counts.append(len(request.finishes))
        said_ids |= {finish.finish_id for finish in request.finishes}
    assert counts == [100, 100, 50] and len(said_ids) == 250


def test_events_replies_and_results_are_said_once_a_session() -> None:
    peers = Peers()
    peers.hear(grants=[peers.grant()])
    key = ("lease-1", 1)
    peers.book.prepared(key)
    peers.book.told(key, "getting the image")
    peers.book.ended(key, succeeded())
    assert not peers.say().finishes, "not kept yet"
    peers.book.finish_kept(key)
    beat = peers.say()
    assert [finish.finish_id for finish in beat.finishes] == ["finish-1"]
    assert beat.heartbeat.lease_set_digest == lease_set_digest([]), "the queue service has read it by then"
    assert peers.session.to_send(peers.now) is None
    again = Peers(peers.book)
    assert again.hello.inventory[0].unconfirmed_finish
    request = again.say()
    assert [event.detail for event in request.run_events] == ["getting the image"]
    assert [finish.finish_id for finish in request.finishes] == ["finish-1"]
    again.hear(confirms=[leases_pb2.Confirm(finish_id="finish-1")])
    again.book.removed(key)
    assert not again.book.leases


def test_an_answer_that_was_never_sent_is_told_by_the_inventory() -> None:
    peers = Peers()
    peers.hear(grants=[peers.grant()])
    again = Peers(peers.book)
    request = again.say()
    assert not request.grant_replies and len(again.hello.inventory) == 1


def test_the_inventory_is_told_when_asked_for() -> None:
    peers = Peers()
    peers.hear(grants=[peers.grant()])
    assert not peers.say().heartbeat.has_inventory
    peers.hear(inventory_wanted=True)
    beat = peers.say().heartbeat
    assert beat.has_inventory and [entry.lease_id for entry in beat.inventory] == ["lease-1"]
    assert beat.lease_set_digest == lease_set_digest([("lease-1", 1)])
    assert beat.grant_seq_seen == 1
    assert peers.session.to_send(peers.now) is None


def test_what_is_dropped_is_told_of_no_more() -> None:
    peers = Peers()
    peers.hear(grants=[peers.grant()])
    peers.acknowledge(0, "lease-1")
    beat = peers.say().heartbeat
    assert beat.lease_set_digest == lease_set_digest([]) and beat.free_slots == 3
    assert not Peers(peers.book).hello.inventory


def test_a_drain_is_passed_on_both_ways() -> None:
    peers = Peers()
    peers.hear(drain=leases_pb2.Drain())
    request = peers.say()
    assert request.HasField("drain") and request.heartbeat.free_slots == 0
    assert peers.book.empty


def drained(peers: Peers) -> None:
    """Drain an agent whose one lease has not begun, up to where it is to be given back."""
    peers.hear(grants=[peers.grant()])
    first = peers.say().heartbeat.seq
    peers.acknowledge(first)
    peers.hear(drain=leases_pb2.Drain())
    peers.book.ended(("lease-1", 1), stopped_result(StopReason.PREEMPTED, None, runs_pb2.TimeLimits()))


def test_a_lease_is_given_back_and_let_go_with_the_next_acknowledgement() -> None:
    peers = Peers()
    peers.hear(grants=[peers.grant()])
    before = peers.say().heartbeat.seq
    peers.hear(drain=leases_pb2.Drain())
    peers.book.ended(("lease-1", 1), stopped_result(StopReason.PREEMPTED, None, runs_pb2.TimeLimits()))
    request = peers.say()
    assert [(one.lease_id, one.epoch, one.reason) for one in request.releases] == [
        ("lease-1", 1, "the agent drains")
    ]
    assert request.heartbeat.lease_set_digest == lease_set_digest([])
    peers.acknowledge(before)
    assert peers.book.releases(), "that was said before"
    assert [type(effect) for effect in peers.acknowledge(request.heartbeat.seq)][:1] == [fx.Clean]
    assert not peers.say().releases


def test_what_was_given_back_as_the_session_broke_is_given_back_again() -> None:
    peers = Peers()
    drained(peers)
    assert peers.say().releases
    again = Peers(peers.book)
    assert [entry.state for entry in again.hello.inventory] == [runs_pb2.RUN_STATE_PREPARING]
    assert [one.lease_id for one in again.say().releases] == ["lease-1"]
    # The other way: it was carried out, and only that was not heard.
    later = Peers(peers.book, opened=False)
    effects = later.hear(welcome=later.welcome(leases_pb2.VERDICT_ACTION_STOP_STALE))
    assert [type(effect) for effect in effects] == [fx.Clean] and not later.say().releases


# --- ends


def test_the_last_words_are_said_and_no_grant_is_taken() -> None:
    peers = Peers()
    peers.hear(grants=[peers.grant()])
    peers.session.leave()
    peers.hear(grants=[peers.grant("lease-2", 2)])
    request = peers.say()
    assert [reply.lease_id for reply in request.grant_replies] == ["lease-1"]
    assert not request.HasField("heartbeat") and len(peers.book.leases) == 1
    assert peers.session.next_beat() == float("inf")


def test_a_go_away_says_for_how_long() -> None:
    peers = Peers()
    go_away = leases_pb2.GoAway(reconnect_after=seconds(2), jitter=seconds(3), reason="upgrade")
    peers.hear(go_away=go_away)
    assert peers.session.away == protocol.Away(2, 3, "upgrade")
    assert peers.session.to_send(peers.now) is None
    assert peers.hear(grants=[peers.grant()]) == [] and not peers.book.leases


def test_a_broken_session_says_and_hears_nothing() -> None:
    peers = Peers()
    peers.session.broken()
    peers.session.broken()
    assert peers.session.to_send(peers.now) is None
    assert peers.hear(grants=[peers.grant()]) == []


def test_every_state_leads_away() -> None:
    assert {state for state, _ in TRANSITIONS} == set(SessionState) - {SessionState.AWAY}
    for state in set(SessionState) - {SessionState.AWAY}:
        assert SessionState.AWAY in {then for (was, _), then in TRANSITIONS.items() if was is state}


# --- pictures


@pytest.mark.parametrize(
    ("name", "picture"), [("attempt-phases", phases.mermaid()), ("agent-session", protocol.mermaid())]
)
def test_the_pictures_in_architecture_md_are_drawn_from_the_tables(name: str, picture: str) -> None:
    _, _, rest = ARCHITECTURE.partition(f"<!-- {name} -->\n")
    found, _, _ = rest.partition(f"<!-- /{name} -->")
    assert found == f"```mermaid\n{picture}```\n"


def test_every_phase_is_drawn() -> None:
    assert all(phase.name in phases.mermaid() for phase in Phase)
