"""One agent process in a model: the real book of leases and session core, and a shell of effects."""

import random
from collections.abc import Callable, Iterable
from typing import assert_never
from uuid import UUID

from towline.errors import Unavailable
from towline.v1 import leases_pb2, runs_pb2
from towline_agent.core import effects as do
from towline_agent.core import failures
from towline_agent.core.capacity import Capacity
from towline_agent.core.deadlines import Deadline
from towline_agent.core.lease import Key, Lease
from towline_agent.core.leases import LeaseBook
from towline_agent.core.phases import works
from towline_agent.core.protocol import AgentSession
from towline_agent.core.stops import Signalled, stopped_result
from towline_testing.model_network import Connection, Down
from towline_testing.model_node import Container, Node, Record, status
from towline_testing.model_replica import Replica
from towline_testing.model_timeline import Process

SLOTS = 3
GPUS = 2


class Agent(Process):
    """An agent on a node; it begins anew as often as somebody kills it.

    Args:
        node: What outlives it.
        chance: For delays and ids.
        replicas: Whom it may call.
        connect: Makes a connection to a replica, or None if nobody answers.
    """

    def __init__(
        self,
        node: Node,
        chance: random.Random,
        replicas: list[Replica],
        connect: Callable[["Agent", Replica], Connection | None],
    ) -> None:
        super().__init__(node.timeline)
        self.node = node
        self.fuse: int | None = None
        """Effects until it dies."""
        self._chance = chance
        self._replicas = replicas
        self._connect = connect
        self.connection: Connection | None = None
        node.on_end = lambda key: self.later(self._delay(), lambda: self._attend(key))

    @property
    def name(self) -> str:
        return self.node.name

    # Its life

    def begin(self) -> None:
        self.alive, self.fuse = True, None
        node = self.node
        node.disk.starts += 1
        self.timeline.note("{} begins (start {})", self.name, node.disk.starts)
        gpus = tuple(leases_pb2.Gpu(id=f"GPU-{number}") for number in range(GPUS))
        self.book = LeaseBook(Capacity(SLOTS, gpus), node.disk.starts * 2**32, self._new_id)
        self.session: AgentSession | None = None
        self.connection = None
        self._session_id = ""
        self._permitted: set[Key] = set()
        self._waiting: list[Key] = []
        self._began: set[Key] = set()
        self._noting: list[Key] = []
        self._noted: set[Key] = set()
        self._ready: set[Key] = set()
        self._concluded: set[Key] = set()
        self._cleaned: set[Key] = set()
        self._wake_at = float("inf")
        self.book.engine(ready=True)
        for key in [key for key in node.containers if key not in node.disk.records]:
            node.remove(key)
        for kept in node.restored():
            self.apply(self.book.restored(kept, self._now()))
        self.later(self._chance.random() * 2, self._call)

    def die(self) -> None:
        self.timeline.note("{} dies", self.name)
        connection, self.connection = self.connection, None
        self.end()
        if connection is not None:
            connection.hang_up(in_order=False, noticed_after=self._chance.random())

    def leave(self) -> None:
        """End in order, as an upgrade does: say what there is to say, and good-bye."""
        self.timeline.note("{} leaves", self.name)
        if self.session is not None and self.connection is not None:
            self.session.leave()
            if message := self.session.to_send(self._now()):
                self.connection.send_up(message)
            self.connection.hang_up(in_order=True)
            self.connection = None
        self.end()

    # Its connection

    def _call(self) -> None:
        if self.connection is not None:
            return
        if self.book.unconfirmed() and self._chance.random() < 0.5:
            self.deliver(copies=1)
        connection = self._connect(self, self._chance.choice(self._replicas))
        if connection is None:
            self.later(1 + self._chance.random(), self._call)
            return
        introduction = leases_pb2.Hello(
            agent=self.name,
            instance_id=f"instance of {self.name}",
            boot_id=str(self.node.boot),
            queues=["queues/slow", "queues/fast"],
            capacity=leases_pb2.Capacity(slots=SLOTS),
            gpus=self.book.intake.capacity.gpus,
        )
        self.connection = connection
        self.session = AgentSession(self.book, introduction, self._session_id)
        connection.send_up(self.session.hello(self._now()))
        self._plan()

    def hears(self, connection: Connection, message: Down) -> None:
        self.later(0.0, lambda: self._hear(connection, message))

    def _hear(self, connection: Connection, message: Down) -> None:
        if connection is not self.connection or self.session is None:
            return
        try:
            effects = self.session.received(message, self._now())
        except Unavailable:
            self.hang_up()
            return
        self._session_id = self.session.session_id
        self.apply(effects)
        if self.alive and self.session is not None and self.session.away is not None:
            self.hang_up(self.session.away.after)

    def finds_broken(self, connection: Connection) -> None:
        def notice() -> None:
            if connection is self.connection:
                self.hang_up()

        self.later(0.0, notice)

    def hang_up(self, away: float = 0.0, noticed_after: float = 0.0) -> None:
        """Give a connection up and call again later."""
        connection, self.connection = self.connection, None
        if connection is None:
            return
        assert self.session is not None
        self.session.broken()
        self.session = None
        connection.hang_up(in_order=False, noticed_after=noticed_after)
        self.later(away + self._chance.choice((0.05, 1.0, 5.0)), self._call)

    def deliver(self, *, copies: int) -> None:
        """Send results by the unary way, copies of which may come late."""
        request = leases_pb2.FinishLeasesRequest(finishes=self.book.unconfirmed())

        def answered(response: leases_pb2.FinishLeasesResponse) -> None:
            for confirm in response.confirms:
                self.apply(self.book.confirmed(confirm.finish_id))

        def heard(response: leases_pb2.FinishLeasesResponse) -> None:
            self.later(self._delay(), lambda: answered(response))

        def arrive(replica: Replica, then: Callable[[leases_pb2.FinishLeasesResponse], None]) -> None:
            replica.later(0.0, lambda: replica.finish_leases(request, then))

        for number in range(copies):
            replica = self._chance.choice(self._replicas)
            # Of copies that nobody waits for any more nobody hears an answer.
            then = heard if number == 0 else lambda _: None
            delay = self._chance.choice((0.01, 1.0, 60.0, 300.0)) if number else self._delay()
            self.timeline.after(delay, lambda replica=replica, then=then: arrive(replica, then))  # type: ignore[misc] # mypy cannot infer a lambda with a default

    def _plan(self) -> None:
        """Say what there is to say, and wake up when time demands something."""
        if not self.alive:
            return
        now, session = self._now(), self.session
        if session is not None and self.connection is not None:
            if message := session.to_send(now):
                self.connection.send_up(message)
            at = min(session.next_beat(), session.silent_at, self.book.next_tick())
        else:
            at = self.book.next_tick()
        if at == float("inf") or (now < self._wake_at <= at):
            return
        self._wake_at = at
        self.later((at - now) / self.node.rate + 1e-6, self._wake)

    def _wake(self) -> None:
        self._wake_at = float("inf")
        now = self._now()
        if self.session is not None and now >= self.session.silent_at:
            self.timeline.note("{} hears nothing", self.name)
            self.hang_up()
        self.apply(self.book.tick(now))

    # Effects

    def apply(self, effects: Iterable[do.Effect]) -> None:
        """Carry out effects, unless it dies in between."""
        for effect in effects:
            if self.fuse is not None:
                self.fuse -= 1
                if self.fuse < 0:
                    self.die()
            if not self.alive:
                return
            self._apply(effect)
        if self.alive:
            self._plan()

    def _apply(self, effect: do.Effect) -> None:
        node = self.node
        match effect:
            case do.KeepGrant(key, grant):
                self.later(self._delay(), lambda: self._keep_grant(key, grant))
            case do.Execute(key):
                self.later(self._delay(), lambda: self._attend(key))
            case do.Permit(key):
                self._waiting.append(key)
                self._write_deadlines()
            case do.Begin(key):
                self._noting.append(key)
                self._write_deadlines()
            case do.StopContainer(key, stop):
                self._stop(key, stop.grace.total_seconds())
            case do.Kill(key):
                if container := node.containers.get(key):
                    node.kill(container)
            case do.KeepStart(key, at):
                self._keep(key, lambda record: setattr(record, "started", (node.boot, at)))
            case do.KeepExit(key, exit):
                self._keep(key, lambda record: setattr(record, "exit", (node.boot, exit)))
            case do.KeepFinish(key, finish):
                self.later(self._delay(), lambda: self._keep_finish(key, finish))
            case do.Clean(key, grace):
                self._clean(key, grace.total_seconds() if grace else 0.0)
            case do.Forget(key):
                node.disk.records.pop(key, None)
            case do.DeadlinesChanged():
                self._write_deadlines()
            case _:
                assert_never(effect)

    def _keep_grant(self, key: Key, grant: leases_pb2.Grant) -> None:
        if self.node.disk.full:
            self.apply(self.book.grant_not_kept(key, "it is full", self._now()))
        else:
            self.node.disk.records[key] = Record(grant)
            self.apply(self.book.grant_kept(key, self._now()))

    def _keep_finish(self, key: Key, finish: leases_pb2.Finish) -> None:
        if self.node.disk.full:
            self.apply(self.book.finish_not_kept(key, self._now()))
        else:
            self._keep(key, lambda record: setattr(record, "finish", finish))
            self.apply(self.book.finish_kept(key))

    def _keep(self, key: Key, change: Callable[[Record], None]) -> None:
        record = self.node.disk.records.get(key)
        if record is not None and not self.node.disk.full:
            change(record)

    def _write_deadlines(self) -> None:
        """Write them; only then may start what waits for it."""
        entries = tuple(_deadline(lease) for lease in self.book.leases if lease.at_risk)
        if not self.node.write_deadlines(entries):
            self.later(1.0, self._write_deadlines)
            return
        permitted, self._waiting = self._waiting, []
        self._permitted.update(permitted)
        noted, self._noting = self._noting, []
        self._noted.update(noted)
        for key in [*permitted, *noted]:
            self.later(0.0, lambda key=key: self._attend(key))  # type: ignore[misc] # mypy cannot infer a lambda with a default

    # Attempts

    def _attend(self, key: Key) -> None:
        """Take the next step towards an attempt's result, if there is one to take."""
        lease = self.book.find(key)
        if lease is None or not works(lease.phase) or not lease.executing or key in self._concluded:
            return
        container = self.node.containers.get(key)
        if container is None:
            self._make(lease)
            return
        if not lease.container_id:
            self.apply(self.book.started(key, container.id, container.started_at))
            if lease.stop is not None and self.alive:
                self._stop(key, lease.stop.grace.total_seconds())
        if container.running or not self.alive:
            return
        if lease.exit is None:
            self.apply(self.book.exited(key, status(container), self.node.expired(key)))
        if self.alive:
            self._conclude(lease)

    def _make(self, lease: Lease) -> None:
        key = lease.key
        if lease.exit is not None or lease.stop is not None or (lease.begun and key not in self._began):
            self._conclude(lease)
        elif key not in self._ready:
            self._ready.add(key)
            self.book.prepared(key)
            self.book.told(key, "getting the image")
            delay = self._chance.choice(self.node.conditions.images)
            self.later(delay, lambda: self._prepared(key))
            self._plan()
        elif key in self._permitted and key in self._cleaned:
            self._start(lease)

    def _start(self, lease: Lease) -> None:
        """Start a container, once it is on disk that one may have been started."""
        key = lease.key
        effects = self.book.starts(key, self._now())
        if effects and key not in self._began:
            self._began.add(key)
            self.apply(effects)
        elif effects and key in self._noted:
            container = self.node.start(key, lease.spec.run)
            self.apply(self.book.started(key, container.id, container.started_at))
            self.book.told(key, "running")
            self._plan()

    def _prepared(self, key: Key) -> None:
        self._cleaned.add(key)  # what an earlier start has left is removed, the image is there
        self._attend(key)

    def _stop(self, key: Key, grace: float) -> None:
        lease, container = self.book.find(key), self.node.containers.get(key)
        if lease is None or lease.stop is None:
            return
        if container is None or not container.running:
            self.later(self._delay(), lambda: self._attend(key))
            return
        at = lease.signalled_at if lease.signalled_at is not None else self._now()
        note = Signalled(lease.stop.reason, at, lease.stop.grace)
        self._keep(key, lambda record: setattr(record, "signalled", (self.node.boot, note)))
        self.apply(self.book.announced(key, at))
        self.apply(self.book.signalled(key, self._now()))
        self.node.signal(container)

    def _conclude(self, lease: Lease) -> None:
        self._concluded.add(lease.key)
        result = _judge(lease)
        delay = self._chance.choice((0.01, 0.01, 8.0))
        self.later(delay, lambda: self.apply(self.book.ended(lease.key, result)))

    def _clean(self, key: Key, grace: float) -> None:
        container = self.node.containers.get(key)

        def remove() -> None:
            self.node.remove(key)
            self.apply(self.book.removed(key))

        if container is not None and container.running and grace:
            self.node.signal(container)
            self._remove_when_ended(container, self._now() + grace, remove)
        else:
            self.later(self._delay(), remove)

    def _remove_when_ended(self, container: Container, deadline: float, remove: Callable[[], None]) -> None:
        if container.running and self._now() < deadline:
            self.later(0.5, lambda: self._remove_when_ended(container, deadline, remove))
        else:
            remove()

    def _now(self) -> float:
        return self.node.clock()

    def _delay(self) -> float:
        return self._chance.choice((0.0, 0.001, 0.02, 0.5))

    def _new_id(self) -> str:
        return str(UUID(int=self._chance.getrandbits(128), version=4))


def _judge(lease: Lease) -> leases_pb2.AttemptResult:
    """Make a result, as the runner does."""
    code = lease.exit.status.code if lease.exit else None
    if stop := lease.stopped_by():
        return stopped_result(stop.reason, code, lease.spec.limits)
    if lease.exit is None:
        return failures.failed(runs_pb2.FAILURE_CAUSE_CONTROL_PLANE, "The container is gone.")
    return failures.from_exit(lease.exit.status, "train", 0, "")


def _deadline(lease: Lease) -> Deadline:
    window = lease.window
    return Deadline(
        lease=lease.grant.lease_id,
        epoch=lease.grant.epoch,
        run=lease.spec.run,
        container=f"towline-{lease.grant.lease_id}",
        signal="SIGTERM",
        stop_at=max(0.0, window.stop_at),
        kill_at=max(0.0, window.kill_at),
        reason=window.reason.word,
        container_id=lease.container_id,
        begun=lease.begun,
    )
