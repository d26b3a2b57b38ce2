"""The agent's book under events in any order, carried out late: what must hold whatever happens."""

from datetime import timedelta
from itertools import count

from google.protobuf.duration_pb2 import Duration
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from towline.v1 import docker_pb2, leases_pb2, runs_pb2
from towline_agent.core import effects as fx
from towline_agent.core.capacity import Capacity
from towline_agent.core.failures import ExitStatus, succeeded
from towline_agent.core.lease import Key
from towline_agent.core.leases import LeaseBook
from towline_agent.core.orders import Restored
from towline_agent.core.phases import Phase, occupies
from towline_agent.core.stops import Exit, Signalled, stopped_result

SLOTS = 2
RUNS = st.sampled_from(["runs/a", "runs/b", "runs/c"])
VERDICTS = st.sampled_from(sorted(set(leases_pb2.VerdictAction.values()) - {0}))
REASONS = st.sampled_from(leases_pb2.StopReason.values())


def seconds(value: float) -> Duration:
    made = Duration()
    made.FromTimedelta(timedelta(seconds=value))
    return made


class Disk:
    """What a crash leaves."""

    def __init__(self) -> None:
        self.grants: dict[Key, leases_pb2.Grant] = {}
        self.finishes: dict[Key, leases_pb2.Finish] = {}
        self.exits: dict[Key, Exit] = {}
        self.stops: dict[Key, Signalled] = {}
        self.running: set[Key] = set()
        """Containers that run: they survive the agent too."""


class Node(RuleBasedStateMachine):
    """A book, a disk, containers, and a queue of effects of which any may be carried out next."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.numbers = count(1)
        self.disk = Disk()
        self.tried: set[str] = set()
        self.begun: set[Key] = set()
        """Leases whose container was started."""
        self.start()

    def start(self) -> None:
        self.todo: list[fx.Effect] = []
        self.permitted: set[Key] = set()
        self.executing: set[Key] = set()
        self.cleaning: set[Key] = set()
        self.book = LeaseBook(Capacity(SLOTS, ()), 0, lambda: f"finish-{next(self.numbers)}")
        self.book.engine(ready=True)
        for key, grant in self.disk.grants.items():
            kept = Restored(
                grant,
                exit=self.disk.exits.get(key),
                finish=self.disk.finishes.get(key),
                signalled=self.disk.stops.get(key),
                begun=key in self.begun,
            )
            self.todo += self.book.restored(kept, self.now)

    def key(self, index: int) -> Key | None:
        leases = self.book.leases
        return leases[index % len(leases)].key if leases else None

    # --- the queue service

    @rule(run=RUNS, limit=st.sampled_from([0, 20]))
    def grant(self, run: str, limit: int) -> None:
        number = next(self.numbers)
        spec = runs_pb2.LaunchSpec(run=run, docker=docker_pb2.DockerOptions(), stop_grace=seconds(5))
        if limit:
            spec.limits.max_runtime.CopyFrom(seconds(limit))
        made = leases_pb2.Grant(lease_id=f"lease-{number}", epoch=number, ttl=seconds(80), spec=spec)
        self.todo += self.book.granted(made, self.now, self.now)

    @rule(index=st.integers(0, 3), action=VERDICTS)
    def verdict(self, index: int, action: leases_pb2.VerdictAction.ValueType) -> None:
        if key := self.key(index):
            judged = leases_pb2.Verdict(lease_id=key[0], epoch=key[1], action=action)
            self.todo += self.book.judged(judged, self.now - 1, self.now)

    @rule(index=st.integers(0, 3), reason=REASONS)
    def cancel(self, index: int, reason: leases_pb2.StopReason.ValueType) -> None:
        if key := self.key(index):
            order = leases_pb2.Cancel(lease_id=key[0], epoch=key[1], grace=seconds(3), reason=reason)
            self.todo += self.book.cancelled(order, self.now)

    @rule(index=st.integers(0, 3))
    def lose(self, index: int) -> None:
        if key := self.key(index):
            self.todo += self.book.lost([key[0]], self.now)

    @rule()
    def renew(self) -> None:
        keys = [lease.key for lease in self.book.inventory() if lease.answered]
        self.todo += self.book.renewed(keys, self.now - 0.5)
        self.book.answered((reply.lease_id, reply.epoch) for reply in self.book.replies if reply.accepted)
        self.book.replies.clear()

    @rule(index=st.integers(0, 3))
    def confirm(self, index: int) -> None:
        if finishes := self.book.unconfirmed():
            self.todo += self.book.confirmed(finishes[index % len(finishes)].finish_id)

    # --- the node

    @rule(run=RUNS)
    def a_run_gets_as_far_as_it_can(self, run: str) -> None:
        """The usual way, which chance alone takes too seldom."""
        self.grant(run, 0)
        self.carry_out_all()
        self.renew()
        self.renew()
        self.carry_out_all()
        self.container_starts(0)

    @rule()
    def carry_out_all(self) -> None:
        while self.todo:
            self.carry_out(0, works=True)

    @rule(after=st.sampled_from([0.0, 1.0, 10.0, 50.0]))
    def time_passes(self, after: float) -> None:
        self.now += after
        self.todo += self.book.tick(self.now)

    @precondition(lambda self: any(lease.returnable for lease in self.book.leases))
    @rule()
    def drain(self) -> None:
        self.todo += self.book.drain(self.now)

    @rule()
    def releases_are_carried_out(self) -> None:
        keys = [(one.lease_id, one.epoch) for one in self.book.releases()]
        assert not self.begun & set(keys), "given back although it has begun"
        self.todo += self.book.given_back(keys)

    @rule(index=st.integers(0, 3))
    def container_ends(self, index: int) -> None:
        running = sorted(self.disk.running)
        if running:
            self.end(running[index % len(running)], 0)

    def end(self, key: Key, code: int) -> None:
        self.disk.running.discard(key)
        if key in self.executing:
            self.todo += self.book.exited(key, Exit(ExitStatus(code), self.now))
            self.todo += self.book.ended(key, succeeded())
            self.executing.discard(key)

    @rule()
    def crash(self) -> None:
        self.start()

    @precondition(lambda self: self.todo)
    @rule(index=st.integers(0, 10), works=st.booleans())
    def carry_out(self, index: int, works: bool) -> None:
        effect = self.todo.pop(index % len(self.todo))
        if isinstance(effect, fx.KeepFinish):
            self.tried.add(effect.finish.finish_id)
        match effect:
            case fx.KeepGrant(key, grant) if works:
                self.disk.grants[key] = grant
                self.todo += self.book.grant_kept(key, self.now)
            case fx.KeepGrant(key, _):
                self.todo += self.book.grant_not_kept(key, "full", self.now)
            case fx.KeepFinish(key, finish) if works:
                if key in self.disk.grants:
                    self.disk.finishes[key] = finish
                self.todo += self.book.finish_kept(key)
            case fx.KeepFinish(key, _):
                self.todo += self.book.finish_not_kept(key, self.now)
            case fx.KeepExit(key, exit) if works:
                self.disk.exits[key] = exit
            case fx.Execute(key):
                assert key not in self.executing, "executed twice at once"
                if key not in self.cleaning:
                    self.executing.add(key)
            case fx.Permit(key):
                self.permitted.add(key)
            case fx.StopContainer(key, stop):
                self.stop(key, stop.grace)
            case fx.Kill(key):
                self.end(key, 137)
            case fx.Clean(key, _):
                self.cleaning.add(key)
                self.executing.discard(key)
                self.disk.running.discard(key)
                self.todo += self.book.removed(key)
            case fx.Forget(key, _):
                for kept in (self.disk.grants, self.disk.finishes, self.disk.exits, self.disk.stops):
                    kept.pop(key, None)

    def stop(self, key: Key, grace: timedelta) -> None:
        lease = self.book.find(key)
        if lease is None or lease.stop is None:
            return
        if key in self.disk.running:
            self.disk.stops[key] = Signalled(lease.stop.reason, self.now, grace)
            self.todo += [*self.book.announced(key, self.now), *self.book.signalled(key, self.now)]
        elif key in self.executing:
            self.executing.discard(key)
            self.todo += self.book.ended(key, stopped_result(lease.stop.reason, None, lease.spec.limits))

    @rule(index=st.integers(0, 3))
    def container_starts(self, index: int) -> None:
        able = [
            key
            for key in sorted(self.executing & self.permitted)
            if (lease := self.book.find(key))
            and lease.exit is None
            and lease.phase in (Phase.LEASED, Phase.PREPARING)
        ]
        if able and self.book.starts(key := able[index % len(able)], self.now):
            self.book.prepared(key)
            self.begun.add(key)
            self.disk.running.add(key)
            self.todo += self.book.started(key, "container", self.now)

    # --- what must hold

    @invariant()
    def no_slot_is_taken_twice(self) -> None:
        taken = [lease for lease in self.book.leases if occupies(lease.phase)]
        assert len(taken) <= SLOTS or any(lease.key in self.disk.grants for lease in taken)
        assert self.book.credits().slots <= max(0, SLOTS - len(taken))

    @invariant()
    def every_container_that_runs_has_a_deadline(self) -> None:
        windows = self.book.windows()
        for key in self.disk.running:
            lease = self.book.find(key)
            assert lease is not None, "a container without a lease"
            assert lease.exit is not None or key in windows

    @invariant()
    def two_containers_of_a_run_never_run_at_once(self) -> None:
        runs = [self.disk.grants[key].spec.run for key in self.disk.running]
        assert len(runs) == len(set(runs))

    @invariant()
    def what_waits_for_a_result_can_still_get_one(self) -> None:
        for lease in self.book.leases:
            pending = any(getattr(effect, "key", None) == lease.key for effect in self.todo)
            at_work = lease.key in self.executing or pending
            waits = not lease.adopted and lease.stop is None
            done = lease.phase in (Phase.FINISHED, Phase.RELEASED, Phase.CONFIRMED, Phase.DROPPED)
            older = any(
                other.spec.run == lease.spec.run
                and other.grant.epoch < lease.grant.epoch
                and occupies(other.phase)
                for other in self.book.leases
            )
            assert at_work or waits or done or older, lease

    @invariant()
    def only_results_that_were_tried_to_be_kept_are_sent(self) -> None:
        for lease in self.book.leases:
            if lease.phase is Phase.FINISHED:
                assert lease.finish and lease.finish.finish_id in self.tried


Node.TestCase.settings = settings(max_examples=60, stateful_step_count=60)
TestNode = Node.TestCase
