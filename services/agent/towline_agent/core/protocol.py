"""One connection life of the agent: what it says when, and what it makes of what it hears. Pure.

The caller sends `hello` first, then whatever `to_send` gives, whenever something has changed and at the
latest at `next_beat`; it hands every message that comes to `received` and carries the effects out in order.
Moments are seconds of CLOCK_BOOTTIME.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Final

from google.protobuf.duration_pb2 import Duration

from towline.errors import Internal, Unavailable
from towline.v1 import leases_pb2
from towline_agent.core.capacity import lease_set_digest
from towline_agent.core.effects import Effect
from towline_agent.core.lease import Key
from towline_agent.core.leases import LeaseBook
from towline_agent.core.phases import Phase

__all__ = ["MOST_FINISHES", "TRANSITIONS", "AgentSession", "Away", "SessionState", "SessionStep", "mermaid"]

# Each may have a summary of 64 KiB, and a channel takes 16 MiB.
MOST_FINISHES: Final = 100
"""Most results in one message."""
_MOST_UNACKNOWLEDGED: Final = 64
_WELCOME_S: Final = 15.0
_LEAST_INTERVAL_S: Final = 0.05
_DEFAULT_INTERVAL_S: Final = 5.0


class SessionState(Enum):
    """Where a session stands, as its agent sees it."""

    NEW = "new"  # nothing was said
    GREETING = "greeting"  # Hello was sent
    OPEN = "open"  # Welcome came: the verdicts are followed, leases are renewed
    LEAVING = "leaving"  # the agent says its last words; no grant is taken any more
    AWAY = "away"  # over; the next session is another object


class SessionStep(Enum):
    """What happens to a session."""

    HELLO = "hello"
    WELCOME = "welcome"
    GO_AWAY = "go away"
    LEAVE = "leave"
    BREAK = "break"


TRANSITIONS: Final[dict[tuple[SessionState, SessionStep], SessionState]] = {
    (SessionState.NEW, SessionStep.HELLO): SessionState.GREETING,
    (SessionState.GREETING, SessionStep.WELCOME): SessionState.OPEN,
    (SessionState.OPEN, SessionStep.GO_AWAY): SessionState.AWAY,
    (SessionState.OPEN, SessionStep.LEAVE): SessionState.LEAVING,
    (SessionState.LEAVING, SessionStep.GO_AWAY): SessionState.AWAY,
    (SessionState.NEW, SessionStep.BREAK): SessionState.AWAY,
    (SessionState.GREETING, SessionStep.BREAK): SessionState.AWAY,
    (SessionState.OPEN, SessionStep.BREAK): SessionState.AWAY,
    (SessionState.LEAVING, SessionStep.BREAK): SessionState.AWAY,
}


def mermaid() -> str:
    """Draw the table."""
    lines = [f"    {was.name} --> {then.name}: {step.value}" for (was, step), then in TRANSITIONS.items()]
    return "\n".join(["stateDiagram-v2", "    [*] --> NEW", *lines, "    AWAY --> [*]", ""])


@dataclass(frozen=True)
class Away:
    """How long to stay away before the next session, as the queue service asks: both parts in seconds."""

    after: float
    jitter: float
    """Add a random time up to this."""
    reason: str


@dataclass(frozen=True)
class _Beat:
    """A heartbeat that was sent and not acknowledged yet."""

    sent: float
    leases: tuple[Key, ...]
    """Those that the queue service had been told of as taken when it was sent."""
    released: tuple[Key, ...]
    """Those that it had been told are given back."""


class AgentSession:
    """One session.

    Args:
        book: The leases that it speaks for; outlives it.
        introduction: Hello, but for inventory and session id.
        previous: Id of the session before, empty if there was none.
    """

    def __init__(self, book: LeaseBook, introduction: leases_pb2.Hello, previous: str = "") -> None:
        self._book = book
        self._introduction = introduction
        self.state = SessionState.NEW
        self.session_id = previous
        """This session's id once it is open."""
        self.missing_queues: list[str] = []
        """Queues that do not exist, as Welcome says."""
        self.away: Away | None = None
        """Set when the queue service has ended the session."""
        self._interval = _DEFAULT_INTERVAL_S
        self._next_beat = 0.0
        self._heard_at = 0.0
        self._beats = 0
        self._unacknowledged: dict[int, _Beat] = {}
        self._acknowledged_sent = 0.0
        self._grant_seq = 0
        self._said_gen = -1
        self._said_events: dict[Key, int] = {}
        self._said_finishes: set[str] = set()
        self._said_releases: dict[Key, None] = {}
        self._said_drain = False
        self._beat_wanted = False
        self._inventory_wanted = False

    @property
    def interval(self) -> float:
        """Return seconds between heartbeats."""
        return self._interval

    @property
    def silent_at(self) -> float:
        """Return when nobody is there if nothing is heard before: every heartbeat is answered."""
        patience = _WELCOME_S if self.state is SessionState.GREETING else 3 * self._interval + 5
        return self._heard_at + patience

    def next_beat(self) -> float:
        """Return when `to_send` has a heartbeat to give, whatever else happens; infinity if never."""
        return self._next_beat if self.state is SessionState.OPEN else float("inf")

    def hello(self, now: float) -> leases_pb2.StreamLeasesRequest:
        """Make the first message."""
        self._step(SessionStep.HELLO)
        # What was not said in the session before is told by the inventory now.
        self._book.replies.clear()
        self._heard_at = self._acknowledged_sent = now
        request = leases_pb2.StreamLeasesRequest(hello=self._introduction)
        request.hello.session_id = self.session_id
        request.hello.hello_seq = self._book.next_hello()
        request.hello.inventory.extend(lease.inventory() for lease in self._book.inventory())
        return request

    def received(self, response: leases_pb2.StreamLeasesResponse, now: float) -> list[Effect]:
        """Take a message; its fields in the order of the proto.

        Raises:
            Unavailable: The first message is no Welcome.
        """
        self._heard_at = now
        effects: list[Effect] = []
        if self.state is SessionState.GREETING:
            effects += self._welcomed(response, now)
        if self.state not in (SessionState.OPEN, SessionState.LEAVING):
            return []
        if response.HasField("renewed"):
            effects += self._renewed(response.renewed, now)
        for confirm in response.confirms:
            effects += self._book.confirmed(confirm.finish_id)
        for cancel in response.cancels:
            effects += self._book.cancelled(cancel, now)
        for grant in response.grants:
            effects += self._granted(grant, now)
        self._inventory_wanted |= response.inventory_wanted
        if response.HasField("drain"):
            effects += self._book.drain(now)
        if response.HasField("go_away"):
            self._go_away(response.go_away)
        return effects

    def to_send(self, now: float) -> leases_pb2.StreamLeasesRequest | None:
        """Return what is to be said now, or None; it counts as said."""
        if self.state not in (SessionState.OPEN, SessionState.LEAVING):
            return None
        request = self._news()
        # An accepted grant asks for a heartbeat: its acknowledgement lets the container start.
        asked = self._beat_wanted or self._inventory_wanted or self._book.intake.generation != self._said_gen
        if self.state is SessionState.OPEN and (asked or now >= self._next_beat):
            request.heartbeat.CopyFrom(self._heartbeat(now))
        return request if request.ByteSize() else None

    def leave(self) -> None:
        """Take no more grants; what `to_send` gives once more are the last words."""
        if self.state is SessionState.OPEN:
            self._step(SessionStep.LEAVE)

    def broken(self) -> None:
        """Note that the connection is gone."""
        if self.state is not SessionState.AWAY:
            self._step(SessionStep.BREAK)

    def _welcomed(self, response: leases_pb2.StreamLeasesResponse, now: float) -> list[Effect]:
        if not response.HasField("welcome"):
            raise Unavailable("the first answer is no Welcome", reason="UNAVAILABLE")
        self._step(SessionStep.WELCOME)
        welcome = response.welcome
        self.session_id = welcome.session_id
        self.missing_queues = list(welcome.missing_queues)
        if welcome.HasField("heartbeat_interval"):
            self._beat_every(welcome.heartbeat_interval)
        self._next_beat = now
        hello_sent = self._acknowledged_sent
        return [
            effect for verdict in welcome.verdicts for effect in self._book.judged(verdict, hello_sent, now)
        ]

    def _renewed(self, renewed: leases_pb2.Renewed, now: float) -> list[Effect]:
        effects = self._book.lost(renewed.lost_lease_ids, now)
        if renewed.HasField("heartbeat_interval"):
            self._beat_every(renewed.heartbeat_interval)
            self._next_beat = now + self._interval
        beat = self._unacknowledged.get(renewed.ack_seq)
        if beat is None:  # never sent in this session, or acknowledged before
            return effects
        for seq in [seq for seq in self._unacknowledged if seq <= renewed.ack_seq]:
            del self._unacknowledged[seq]
        self._acknowledged_sent = max(self._acknowledged_sent, beat.sent)
        effects += self._book.given_back(beat.released)
        return [*effects, *self._book.renewed(beat.leases, beat.sent)]

    def _beat_every(self, interval: Duration) -> None:
        self._interval = max(interval.ToTimedelta().total_seconds(), _LEAST_INTERVAL_S)

    def _granted(self, grant: leases_pb2.Grant, now: float) -> list[Effect]:
        self._grant_seq = max(self._grant_seq, grant.grant_seq)
        if self.state is SessionState.LEAVING:
            return []  # unanswered, it goes back to its queue
        return self._book.granted(grant, self._acknowledged_sent, now)

    def _go_away(self, go_away: leases_pb2.GoAway) -> None:
        self._step(SessionStep.GO_AWAY)
        self.away = Away(
            go_away.reconnect_after.ToTimedelta().total_seconds(),
            go_away.jitter.ToTimedelta().total_seconds(),
            go_away.reason or "it stops",
        )

    def _news(self) -> leases_pb2.StreamLeasesRequest:
        """Return all that this session has not said yet."""
        book = self._book
        request = leases_pb2.StreamLeasesRequest(grant_replies=book.replies)
        self._beat_wanted |= any(reply.accepted for reply in book.replies)
        book.answered((reply.lease_id, reply.epoch) for reply in book.replies if reply.accepted)
        book.replies.clear()
        for lease in book.inventory():
            if events := lease.events_after(self._said_events.get(lease.key, 0)):
                request.run_events.extend(events)
                self._said_events[lease.key] = events[-1].event_seq
        for finish in book.unconfirmed():
            # The others come with the next message.
            if finish.finish_id not in self._said_finishes and len(request.finishes) < MOST_FINISHES:
                request.finishes.append(finish)
                self._said_finishes.add(finish.finish_id)
        for release in book.releases():
            key = (release.lease_id, release.epoch)
            if key not in self._said_releases:
                # Nothing answers it but the acknowledgement of a heartbeat that comes after it.
                self._beat_wanted = True
                request.releases.append(release)
                self._said_releases[key] = None
        if book.intake.draining and not self._said_drain:
            request.drain.SetInParent()
            self._said_drain = True
        return request

    def _heartbeat(self, now: float) -> leases_pb2.Heartbeat:
        book = self._book
        free = book.credits()
        self._beats += 1
        self._beat_wanted = False
        self._said_gen = book.intake.generation
        self._next_beat = now + self._interval
        taken = tuple(lease.key for lease in book.inventory() if lease.answered)
        self._unacknowledged[self._beats] = _Beat(now, taken, tuple(self._said_releases))
        # One that is forgotten renews nothing: the lease ends sooner, never later.
        self._unacknowledged.pop(self._beats - _MOST_UNACKNOWLEDGED, None)
        beat = leases_pb2.Heartbeat(
            seq=self._beats,
            capacity_gen=self._said_gen,
            free_slots=free.slots,
            free_gpu_ids=free.gpu_ids,
            lease_set_digest=lease_set_digest(self._held()),
            grant_seq_seen=self._grant_seq,
            withheld=book.intake.withheld,
        )
        if self._inventory_wanted:
            self._inventory_wanted = False
            beat.has_inventory = True
            beat.inventory.extend(lease.inventory() for lease in book.inventory())
        return beat

    def _held(self) -> Iterable[Key]:
        """Return the leases that the queue service must also have once it has read what was said before."""
        for lease in self._book.inventory():
            finished = lease.finish is not None and lease.finish.finish_id in self._said_finishes
            if lease.phase is Phase.FINISHED and finished:
                continue
            if lease.phase is not Phase.RELEASED or lease.key not in self._said_releases:
                yield lease.key

    def _step(self, step: SessionStep) -> None:
        try:
            self.state = TRANSITIONS[self.state, step]
        except KeyError:
            raise Internal(
                f"a session that is {self.state.value} cannot {step.value}", reason="INTERNAL"
            ) from None
