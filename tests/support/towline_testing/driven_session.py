"""A session of the queue service, driven with messages only: no stream, no database, no real clock."""

from datetime import timedelta
from uuid import UUID, uuid4

from towline.v1 import leases_pb2, runs_pb2
from towline_queue.core import leases
from towline_queue.core import session_events as on
from towline_queue.core.heartbeats import Pace
from towline_queue.core.lease_ids import AttemptKey, lease_id
from towline_queue.core.lease_policy import DEFAULT
from towline_queue.core.leases import Claimed, LiveLease, Reconciled, Renewal
from towline_queue.core.reports import ReportAnswer
from towline_queue.core.session_protocol import SessionProtocol
from towline_queue.core.sessions import Reconciliation
from towline_queue.core.stops import Stop, StopReason
from towline_queue.core.transitions import State

ONE, TWO = AttemptKey("runs/one", 1), AttemptKey("runs/two", 4)
NOTHING = Reconciled(Reconciliation([], {}, [], []), [])
CANCEL = Stop(StopReason.CANCELLED, timedelta(seconds=15))
PREEMPT = Stop(StopReason.PREEMPTED, timedelta(seconds=15))


def hello(**fields: object) -> on.Hello:
    values = {
        "agent": "agents/one",
        "instance_id": "i",
        "boot_id": "b",
        "queues": ["queues/default"],
        "gpus": [leases_pb2.Gpu(id="GPU-1")],
    }
    return on.Hello(leases_pb2.StreamLeasesRequest(hello=leases_pb2.Hello(**(values | fields))))


def opened(*adopted: AttemptKey, draining: bool = False) -> on.Opened:
    outcome = Reconciliation([], dict.fromkeys(adopted, State.RUNNING), [], [])
    return on.Opened(leases.Opened(3, draining, DEFAULT, (), Reconciled(outcome, [])))


class Driven:
    """A session and all that it sent; its calls to the store are answered by the test."""

    def __init__(self, *adopted: AttemptKey, draining: bool = False, pace: Pace | None = None) -> None:
        self.protocol = SessionProtocol(uuid4(), pace)
        self.now_s = 1000.0
        self.sent: list[leases_pb2.StreamLeasesResponse] = []
        self.closed: on.Close | None = None
        self.woken = 0
        assert isinstance(self.tell(hello()), on.Open)
        assert self.tell(opened(*adopted, draining=draining)) is None

    def tell(self, event: on.Event) -> on.StoreCall | None:
        effects = self.protocol.handle(event, self.now_s)
        for position, effect in enumerate(effects):
            match effect:
                case on.Send(message):
                    self.sent.append(message)
                case on.Close():
                    self.closed = effect
                case on.WakeDispatcher():
                    self.woken += 1
                case _:
                    assert position == len(effects) - 1
                    return effect
        return None

    def say(self, **fields: object) -> on.StoreCall | None:
        return self.tell(on.Said([leases_pb2.StreamLeasesRequest(**fields)]))

    def beat(self, renewal: Renewal | None = None, **fields: object) -> leases_pb2.StreamLeasesResponse:
        """Have a heartbeat renewed, and return its answer."""
        call = self.say(heartbeat=leases_pb2.Heartbeat(**({"seq": 7, "free_slots": 2} | fields)))
        assert call == on.Renew(self.protocol.key)
        before = len(self.sent)
        assert self.tell(on.Renewed(renewal or Renewal(False, []))) is None
        return self.sent[before]

    def grant(self, *keys: AttemptKey) -> None:
        made = [(claimed(key, self.protocol.key.id), self.protocol.credits.take(())) for key in keys]
        assert self.tell(on.Granted(made)) is None

    def free_slots(self) -> int:
        return self.protocol.offer(self.now_s).free_slots


def claimed(key: AttemptKey, session: UUID, ttl: timedelta = timedelta(seconds=120)) -> Claimed:
    spec = runs_pb2.LaunchSpec(run=key.run).SerializeToString()
    return Claimed(key, session, 1, spec, (), ttl)


def live(key: AttemptKey, session: UUID, stop: Stop | None = None) -> LiveLease:
    return LiveLease(key, session, stop)


def answer(**fields: object) -> on.Reported:
    return on.Reported(ReportAnswer(**({"results": [], "stale": set(), "ended": set()} | fields)))


def reply(key: AttemptKey, accepted: bool) -> leases_pb2.GrantReply:
    return leases_pb2.GrantReply(lease_id=lease_id(key), epoch=key.epoch, accepted=accepted)
