"""The whole protocol in a model: replicas, agents, nodes, a store, virtual time, and all that may go wrong.

`Model` has one method for each thing that a person or a fault does; nothing else is random than what `seed`
decides. What must hold is asked of `history.violations`.
"""

import random
from datetime import timedelta
from functools import partial

from towline.errors import FailedPrecondition
from towline.v1 import queues_pb2, runs_pb2
from towline_queue.core.retries import policy_of
from towline_queue.core.submission import NewRun
from towline_queue.core.transitions import ACTIVE, TERMINAL
from towline_testing.history import History, Violation, violations
from towline_testing.memory_store import MemoryLeaseStore
from towline_testing.model_agent import GPUS, Agent
from towline_testing.model_conditions import Conditions
from towline_testing.model_network import Connection
from towline_testing.model_node import Node
from towline_testing.model_replica import Replica
from towline_testing.model_timeline import Timeline

QUEUES = ("queues/slow", "queues/fast")
# Heartbeat interval, silence before a session gets no grants, and before its leases are lost.
_POLICIES = {"queues/slow": (5, 30, 120), "queues/fast": (2, 10, 40)}
_EASY = (30, 90, 300)
_MOST_JUMP_S = 3.0
_PATIENCE_S = 3000.0
_USUAL = Conditions()


class Broken(AssertionError):
    """An invariant does not hold; the message has the trace."""


class Model:
    """A world to do things to.

    Args:
        seed: Decides delays, lifetimes and ids.
        agents: How many.
        conditions: How long things take.
    """

    def __init__(self, seed: int, agents: int = 2, conditions: Conditions = _USUAL) -> None:
        self.chance = random.Random(seed)
        self._conditions = conditions
        self.timeline = Timeline()
        self.history = History()
        self._store_rate = self.chance.choice((0.99, 1.0, 1.01))
        self._store_jump = 0.0
        self._isolated_until: dict[str, float] = {}
        self.store = MemoryLeaseStore(self.store_clock, self.history, self.chance.random)
        for name, policy in _POLICIES.items():
            self._put_queue(name, policy)
        self.replicas = [
            Replica(self.timeline, self.chance, self.store, f"replica {number}") for number in range(2)
        ]
        for replica in self.replicas:
            replica.others = [other for other in self.replicas if other is not replica]
            replica.begin()
        self.agents = []
        for number in range(agents):
            node = Node(self.timeline, self.chance, self.history, f"agents/{'abcd'[number]}", conditions)
            self.agents.append(Agent(node, self.chance, self.replicas, self._connect))
        for agent in self.agents:
            agent.begin()

    def _put_queue(self, name: str, seconds: tuple[int, int, int]) -> None:
        interval, disconnected, lost = (timedelta(seconds=value) for value in seconds)
        policy = queues_pb2.LeasePolicy()
        policy.heartbeat_interval.FromTimedelta(interval)
        policy.disconnected_after.FromTimedelta(disconnected)
        policy.lost_after.FromTimedelta(lost)
        self.store.put_queue(name, queues_pb2.QueueSpec(lease_policy=policy))

    def store_clock(self) -> float:
        """Return the database's time, which drifts and jumps within its bounds."""
        return 1e6 + self.timeline.now * self._store_rate + self._store_jump

    def _connect(self, agent: Agent, replica: Replica) -> Connection | None:
        if self.timeline.now < self._isolated_until.get(agent.name, 0.0):
            return None
        connection = Connection(
            self.timeline, self.chance, agent, replica, self.chance.choice(self._conditions.latencies)
        )
        return connection if replica.takes(connection) else None

    # What people do

    def submit(self, *, queue: int, gpus: int, priority: int, limits: int, due: bool = False) -> None:
        """Submit a run."""
        spec = runs_pb2.LaunchSpec(
            run=f"runs/r{len(self.store.tables.runs):03}", queue=QUEUES[queue % len(QUEUES)]
        )
        spec.docker.gpus = gpus % (GPUS + 1)
        wanted = runs_pb2.RetryPolicy()
        wanted.first_backoff.FromTimedelta(timedelta(seconds=1))
        wanted.longest_backoff.FromTimedelta(timedelta(seconds=8))
        wanted.budgets.add(cause=runs_pb2.FAILURE_CAUSE_USER_ERROR, max_retries=limits % 3)
        wanted.budgets.add(cause=runs_pb2.FAILURE_CAUSE_NODE_LOST, max_retries=2 + limits % 4)
        spec.retry_policy.CopyFrom(policy_of(wanted, runs_pb2.RetryPolicy()))
        spec.stop_grace.FromTimedelta(timedelta(seconds=(0, 2, 15)[limits % 3]))
        if limits % 5 == 1:
            spec.limits.max_runtime.FromTimedelta(timedelta(seconds=15))
        if limits % 5 == 2:
            spec.limits.max_wait.FromTimedelta(timedelta(seconds=60))
        priorities = (runs_pb2.PRIORITY_HIGH, runs_pb2.PRIORITY_MEDIUM)
        new = NewRun(spec, priorities[priority % 2], {}, {}, None, "", b"")
        self.timeline.note("submit {} to {}, {} GPUs", spec.run, spec.queue, spec.docker.gpus)
        self.store.submit(new, due_in=7.0 if due else None)
        for replica in self.replicas:
            replica.later(0.02, partial(replica.hear_of_runs, spec.queue, spec.docker.gpus))

    def cancel(self, number: int) -> None:
        """Cancel a run."""
        if run := self._run(number):
            self.timeline.note("cancel {}", run)
            self.store.cancel(run)
            self._push(run)

    def preempt(self, number: int) -> None:
        """Preempt a run."""
        if run := self._run(number):
            try:
                self.store.preempt(run)
            except FailedPrecondition:
                return
            self.timeline.note("preempt {}", run)
            self._push(run)

    def _run(self, number: int) -> str | None:
        live = [run.name for run in self.store.tables.runs.values() if run.state not in TERMINAL]
        return live[number % len(live)] if live else None

    def _push(self, run: str) -> None:
        for replica in self.replicas:
            replica.later(0.02, lambda replica=replica: replica.push_stops([run]))  # type: ignore[misc] # mypy cannot infer a lambda with a default

    def drain(self, number: int, deadline: float | None) -> None:
        """Drain an agent."""
        agent = self._agent(number)
        if agent.name in self.store.tables.agents:
            self.timeline.note("drain {}", agent.name)
            self.store.drain_by(agent.name, None if deadline is None else timedelta(seconds=deadline))

    def set_policies(self, *, easy: bool) -> None:
        """Let leases of both queues last long, or as they did: sessions learn it when they open."""
        self.timeline.note("policies are {}", "easy" if easy else "as before")
        for name, policy in _POLICIES.items():
            self._put_queue(name, _EASY if easy else policy)

    def upgrade(self, number: int) -> None:
        """Stop an agent in order and start it again."""
        agent = self._agent(number)
        if agent.alive and not agent.frozen:
            agent.leave()
            self._begin_later(agent)

    def let(self, seconds: float) -> None:
        """Let time pass."""
        self.timeline.let(seconds)

    # What goes wrong

    def crash_agent(self, number: int, fuse: int, back_after: float | None = None) -> None:
        """Kill an agent after so many of its next effects; it is started again after a while."""
        agent = self._agent(number)
        if not agent.alive:
            return
        if fuse and not agent.frozen:
            agent.fuse = fuse - 1
        else:
            agent.die()
        self._begin_later(agent, back_after)

    def _begin_later(self, agent: Agent, after: float | None = None) -> None:
        def begin() -> None:
            if agent.alive and agent.fuse is not None:
                agent.die()
            if not agent.alive:
                agent.begin()

        delay = self.chance.choice((0.1, 5.0, 50.0, 200.0)) if after is None else after
        self.timeline.after(delay, begin)

    def reboot(self, number: int) -> None:
        """Take a node's power for a moment."""
        agent = self._agent(number)
        if agent.alive:
            agent.die()
            self._begin_later(agent)
        agent.node.reboot()

    def freeze_agent(self, number: int, seconds: float) -> None:
        """SIGSTOP an agent for a while."""
        agent = self._agent(number)
        if agent.alive:
            self.timeline.note("{} is frozen for {:g} s", agent.name, seconds)
            agent.freeze()
            self.timeline.after(seconds, agent.thaw)

    def cut(self, number: int, *, up: bool, down: bool) -> None:
        """Cut a connection so that nobody notices; one way, or both."""
        connection = self._agent(number).connection
        if connection is not None:
            self.timeline.note("cut {}: up {}, down {}", self._agent(number).name, up, down)
            connection.up_cut |= up
            connection.down_cut |= down

    def isolate(self, number: int, seconds: float, frozen: float) -> None:
        """Take a node from the network for a while; what was said to it may still reach its agent.

        Args:
            number: Of its agent.
            seconds: How long.
            frozen: How long its agent is frozen, too; negative: it crashes.
        """
        agent = self._agent(number)
        self.timeline.note("{} is isolated for {:g} s", agent.name, seconds)
        self._isolated_until[agent.name] = self.timeline.now + seconds
        if agent.connection is not None:
            agent.connection.up_cut = True
        if frozen > 0:
            self.freeze_agent(number, frozen)
        elif frozen < 0:
            self.crash_agent(number, 0)

    def break_connection(self, number: int, noticed_after: float) -> None:
        """Break a connection: its agent sees it now, the replica later, and hears old words till then."""
        agent = self._agent(number)
        if agent.alive and not agent.frozen and agent.connection is not None:
            self.timeline.note("{} loses its connection", agent.name)
            agent.hang_up(noticed_after=noticed_after)

    def deliver(self, number: int, copies: int) -> None:
        """Have an agent send its results by the unary way, and copies of them come late."""
        agent = self._agent(number)
        if agent.alive and not agent.frozen and agent.book.unconfirmed():
            agent.deliver(copies=copies)

    def fill_disk(self, number: int, seconds: float) -> None:
        """Fill an agent's disk for a while."""
        disk = self._agent(number).node.disk
        disk.full = True
        self.timeline.after(seconds, lambda: setattr(disk, "full", False))

    def crash_replica(self, number: int, *, in_order: bool) -> None:
        """End a replica, with or without GoAway; it is started again after a while."""
        replica = self._replica(number)
        if replica.alive:
            if in_order and not replica.frozen:
                replica.stop_in_order()
            else:
                replica.die()
            self.timeline.after(self.chance.choice((0.1, 5.0, 60.0)), replica.begin)

    def freeze_replica(self, number: int, seconds: float) -> None:
        """SIGSTOP a replica for a while."""
        replica = self._replica(number)
        if replica.alive:
            self.timeline.note("{} is frozen for {:g} s", replica.name, seconds)
            replica.freeze()
            self.timeline.after(seconds, replica.thaw)

    def lose_replies(self, number: int, count: int) -> None:
        """Let the next commits of a replica succeed without its knowing."""
        self._replica(number).lose_replies = count

    def database_away(self, seconds: float, which: int = 2) -> None:
        """Take PostgreSQL away for a while: from one replica, or (2) from both."""
        cut_off = self.replicas if which == 2 else [self.replicas[which]]
        for replica in cut_off:
            self.timeline.note("PostgreSQL is away from {} for {:g} s", replica.name, seconds)
            replica.database_away = True
            self.timeline.after(seconds, lambda replica=replica: setattr(replica, "database_away", False))  # type: ignore[misc] # mypy cannot infer a lambda with a default

    def jump(self, seconds: float) -> None:
        """Let the database's clock jump, within the drift that is promised."""
        self._store_jump = min(max(self._store_jump + seconds, 0.0), _MOST_JUMP_S)

    def sweep(self, number: int) -> None:
        """Have a replica do what time demands, whoever leads."""
        replica = self._replica(number)
        if replica.alive and not replica.frozen and not replica.database_away:
            self.store.tables.leaders.clear()
            replica.sweep()

    def _agent(self, number: int) -> Agent:
        return self.agents[number % len(self.agents)]

    def _replica(self, number: int) -> Replica:
        return self.replicas[number % len(self.replicas)]

    # What must hold

    def check(self) -> None:
        """Raise Broken if an invariant does not hold now."""
        self._raise(violations(self.history))

    def heal_and_check(self) -> None:
        """End all faults, let time pass until every run has ended, and check that nothing is left."""
        self.timeline.note("all faults end")
        for replica in self.replicas:
            replica.thaw()
            replica.database_away, replica.lose_replies = False, 0
            if not replica.alive:
                replica.begin()
        self._isolated_until.clear()
        for agent in self.agents:
            agent.node.disk.full = False
            if agent.alive:
                agent.die()  # a fresh start: a drain ends with the process that was drained
            agent.begin()
        waited = 0.0
        while waited < _PATIENCE_S and self._left():
            self.timeline.let(20.0)
            waited += 20.0
        found = violations(self.history, all_ended=True)
        self._raise(found)
        if left := self._left():
            raise Broken(f"after {waited:g} s without faults there is left: {left}\n{self.timeline.trace()}")

    def _left(self) -> list[str]:
        left = [
            f"{run.name} is {run.state.name}"
            for run in self.store.tables.runs.values()
            if run.state not in TERMINAL
        ]
        for agent in self.agents:
            left += [f"{agent.name} holds {lease.key} ({lease.phase})" for lease in agent.book.leases]
            left += [f"{agent.name} keeps {key} in its journal" for key in agent.node.disk.records]
            left += [f"container {one.id} of {one.run}" for one in agent.node.containers.values()]
        return left

    def _raise(self, found: list[Violation]) -> None:
        problems = [str(violation) for violation in found]
        for name, run in self.store.tables.runs.items():
            places = [name in self.store.tables.ready, name in self.store.tables.scheduled]
            places.append(name in self.store.tables.leases)
            if sum(places) != (run.state not in TERMINAL) or places[2] != (run.state in ACTIVE):
                problems.append(f"{name} is {run.state.name} with rows {places}")
        if problems:
            raise Broken("\n".join([*problems, "", self.timeline.trace()]))
