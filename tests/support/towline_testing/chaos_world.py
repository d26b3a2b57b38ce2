"""A whole Towline for one chaos scenario: several queue replicas, several agents, and what became of runs."""

import json
import os
import signal
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from towline.client import Client, Endpoints
from towline.errors import TowlineError
from towline.v1 import docker_pb2, queues_pb2, runs_pb2
from towline_testing.chaos_engine import PrivateEngine, processes_of
from towline_testing.chaos_ground import Ground, seconds, service
from towline_testing.chaos_truth import Truth
from towline_testing.chaos_wire import Wire
from towline_testing.history import CancelAcknowledged, Event, History, Submitted, Violation, violations
from towline_testing.ports import free_port
from towline_testing.programs import Program
from towline_testing.waiting import eventually

QUEUE: Final = "chaos"


TERMINAL: Final = frozenset(
    {runs_pb2.RUN_STATE_SUCCEEDED, runs_pb2.RUN_STATE_FAILED, runs_pb2.RUN_STATE_CANCELLED}
)
SUCCEEDED: Final = runs_pb2.RUN_STATE_SUCCEEDED
FAILED: Final = runs_pb2.RUN_STATE_FAILED
CANCELLED: Final = runs_pb2.RUN_STATE_CANCELLED
RUNNING: Final = runs_pb2.RUN_STATE_RUNNING


@dataclass(frozen=True)
class Verdict:
    """What a scenario showed."""

    runs: int
    violations: list[Violation]
    orphans: list[str]


class World:
    """One scenario's services on the ground of its lane.

    Args:
        ground: What it stands on.
        name: The scenario's; names its folder and its database.
    """

    def __init__(self, ground: Ground, name: str) -> None:
        self.ground = ground
        self.engine = ground.engine
        self.postgres = ground.postgres
        # Short: sockets are below it.
        self.folder = Path(tempfile.mkdtemp(prefix="s", dir=ground.folder))
        self.truth = Truth(ground.postgres, f"s_{name.replace('-', '_')}")
        self.postgres.psql(f"CREATE DATABASE {self.truth.database} TEMPLATE chaos_template")
        self.history = History()
        self.killed: list[str] = []
        self.seen: list[str] = []
        self.queues: dict[str, Program] = {}
        self.agents: dict[str, Program] = {}
        self.wires: list[Wire] = []
        self.watches = [ground.watch]
        """One for each engine that has containers of this scenario."""
        self._ports: dict[str, int] = {}
        self._clients: dict[str, Client] = {}
        self._cleanups: list[Callable[[], object]] = []

    # -- services

    def queue(self, name: str = "queue", *, host: str = "127.0.0.1", **settings: str) -> Program:
        """Start a replica of the queue service; the same name again: at the same address."""
        port = self._ports.setdefault(name, free_port())
        environment = {
            "TOWLINE_QUEUE_LISTEN": f"{host}:{port}",
            "TOWLINE_QUEUE_DATABASE_URL": self.postgres.url(self.truth.database),
            "TOWLINE_QUEUE_REGISTRY_ADDRESS": self.ground.registry_address,
            "TOWLINE_QUEUE_UPKEEP_EVERY_S": "0.2",
            "TOWLINE_QUEUE_GRANT_REPLY_WITHIN_S": "3",
        } | settings
        program = service("queue", name, self.folder, environment)
        self.queues[name] = program
        return program.start()

    def agent(
        self,
        name: str = "a",
        *,
        slots: int = 2,
        to: str = "",
        python_path: str = "",
        prefix: tuple[str, ...] = (),
        called: str = "",
        engine: PrivateEngine | None = None,
        wait: bool = True,
        **settings: str,
    ) -> Program:
        """Start an agent; the same name again: on the same data folder.

        Args:
            name: Of the process and its data folder.
            slots: Attempts at once.
            to: Address of the queue service, such as a wire's; empty: the first replica's.
            python_path: Where its code is, in place of this tree.
            prefix: A command to run it with, such as `nsenter …`.
            called: The agent's name, where it is not that of the process.
            engine: Its engine, in place of the lane's.
            wait: Whether to wait until it serves.
            settings: Environment, such as TOWLINE_AGENT_GPUS.
        """
        environment = {
            "TOWLINE_AGENT_AGENT": called or name,
            "TOWLINE_AGENT_DATA_DIR": str(self.data_of(name)),
            "TOWLINE_AGENT_QUEUE_ADDRESS": to or self.address(),
            "TOWLINE_AGENT_REGISTRY_ADDRESS": self.ground.registry_address,
            "TOWLINE_AGENT_QUEUES": QUEUE,
            "TOWLINE_AGENT_SLOTS": str(slots),
            "TOWLINE_AGENT_GPUS": "none",
            "TOWLINE_AGENT_DOCKER_HOST": (engine or self.engine).url,
        } | settings
        program = service("agent", name, self.folder, environment, python_path=python_path, prefix=prefix)
        self.agents[name] = program
        return program.start(wait=wait)

    def sweep(self, agent: str = "a") -> None:
        """Have an agent look now for what has no owner: it does when it starts, then about once a minute."""
        assert self.agents[agent].stop() == 0
        self.agents[agent].start()

    def data_of(self, agent: str) -> Path:
        """Return an agent's data folder."""
        return self.folder / f"d-{agent}"

    def address(self, queue: str = "queue") -> str:
        return f"127.0.0.1:{self._ports[queue]}"

    def wire(self, queue: str = "queue") -> Wire:
        """Make a connection that can be cut, to a replica."""
        wire = Wire(self.address(queue))
        self.wires.append(wire)
        return wire

    def watchdogs(self) -> list[int]:
        """Return the pids of the agents' watchdogs."""
        found = []
        for pid in processes_of(self.folder):
            try:
                command = Path(f"/proc/{pid}/cmdline").read_bytes()
            except OSError:
                continue
            if b"towline_agent.watchdog" in command:
                found.append(pid)
        return found

    def kill(self, pid: int) -> None:
        """End a process of this scenario as a crash does."""
        assert pid in processes_of(self.folder)
        os.kill(pid, signal.SIGKILL)

    def at_the_end(self, action: Callable[[], object]) -> None:
        """Have something done when the scenario is over, however it went; the last given is done first."""
        self._cleanups.append(action)

    # -- what a user does

    def client(self, to: str = "") -> Client:
        """Return a client of the first replica, or of an address."""
        address = to or self.address()
        if address not in self._clients:
            self._clients[address] = Client(Endpoints(registry=self.ground.registry_address, queue=address))
        return self._clients[address]

    def make_queue(
        self,
        *,
        heartbeat: float = 0.2,
        disconnected: float = 1.0,
        lost: float = 6.0,
        grace: float = 1.0,
        **spec: object,
    ) -> None:
        """Make the scenario's queue, with lease times in seconds."""
        self.client().queues.create(
            QUEUE,
            queues_pb2.QueueSpec(
                docker=docker_pb2.DockerTemplate(
                    network="none", shm_size="1MiB", gpus="{{gpus}}", environment={"LINES": "{{lines}}"}
                ),
                variables=[
                    queues_pb2.TemplateVariable(name="lines", default_json='"20"'),
                    queues_pb2.TemplateVariable(name="gpus", default_json='"0"'),
                ],
                lease_policy=queues_pb2.LeasePolicy(
                    heartbeat_interval=seconds(heartbeat),
                    disconnected_after=seconds(disconnected),
                    lost_after=seconds(lost),
                    stop_grace=seconds(grace),
                ),
                **spec,
            ),
        )

    def begin(self, *, agents: int = 1, slots: int = 2, **policy: object) -> None:
        """Start a replica, the queue, and agents a, b, …"""
        self.queue()
        self.make_queue(**policy)
        for number in range(agents):
            self.agent("abcdefgh"[number], slots=slots)

    def submit(
        self,
        job: str = "count",
        count: int = 1,
        *,
        to: str = "",
        limits: runs_pb2.TimeLimits | None = None,
        retries: runs_pb2.RetryPolicy | None = None,
        **variables: object,
    ) -> list[str]:
        """Submit runs; those whose acknowledgement came are on record."""
        submission = runs_pb2.RunSubmission(
            job=f"jobs/{job}",
            queue=f"queues/{QUEUE}",
            variables={name: json.dumps(str(value)) for name, value in variables.items()},
            limits=limits,
            retry_policy=retries,
        )
        names = []
        for _ in range(count):
            name = self.client(to).runs.submit(submission).name
            self.history.add(Submitted(time.time(), name))
            names.append(name)
        return names

    def one(self, job: str = "count", **options: object) -> str:
        (name,) = self.submit(job, **options)
        return name

    def cancel(self, run: str, *, to: str = "") -> None:
        self.client(to).runs.cancel(run)
        self.history.add(CancelAcknowledged(time.time(), run))

    def get(self, run: str) -> runs_pb2.Run:
        return self.client().runs.get(run)

    def log(self, run: str, epoch: int = 0) -> list[str]:
        """Read what a run's newest attempt, or that of an epoch, printed, as lines."""
        data = b"".join(piece.data for piece in self.client().logs.tail(run, epoch=epoch))
        return data.decode(errors="replace").splitlines()

    # -- waiting

    def until(self, condition: Callable[[], object], within: float = 25) -> None:
        """Wait for a condition; a service that cannot be reached while it is asked has not met it yet."""

        def asked() -> object:
            try:
                return condition()
            except TowlineError:
                return False

        eventually(asked, within=within, every=0.1)

    def lasting(self, seconds: float) -> None:
        """Let a fault last: its length is what the scenario is about."""
        time.sleep(seconds)

    def running(self, *runs: str, within: float = 20) -> None:
        """Wait until runs have containers that print."""
        self.until(
            lambda: all(self.get(run).state == RUNNING and self.log(run) for run in runs), within=within
        )

    def ended(self, *runs: str, state: int = 0, within: float = 30) -> list[runs_pb2.Run]:
        """Wait until runs have ended; AssertionError if one did in another state than `state`."""
        self.until(lambda: all(self.get(run).state in TERMINAL for run in runs), within=within)
        found = [self.get(run) for run in runs]
        for run in found:
            assert not state or run.state == state, f"{run.name} ended otherwise: {run}"
        return found

    def attempts(self, run: str) -> list[runs_pb2.Attempt]:
        """Return a run's attempts, oldest first."""
        return list(self.get(run).attempts)

    def has_attempts(self, run: str, count: int) -> bool:
        """Tell whether a run was leased that often, without asking the service."""
        return self.truth.grants(run) >= count

    def has_lease(self, run: str) -> bool:
        return self.truth.execute(f"SELECT count(*) FROM queue.leases WHERE run = '{run}'") == "1"

    def container(self, run: str) -> str:
        """Return the run's newest container; empty: none."""
        return next(iter(self.engine.containers(run=run)), "")

    def touch(self, run: str) -> None:
        """Make the file in the run's container that its program ends by."""
        self.engine.docker("exec", self.container(run), "touch", "/tmp/end")

    def let_end(self, *runs: str, state: int = SUCCEEDED, within: float = 30) -> list[runs_pb2.Run]:
        """Have the programs of runs end by themselves, in whatever attempt; see `ended`."""

        def asked() -> bool:
            left = [run for run in runs if self.get(run).state not in TERMINAL]
            for run in left:
                for container in self.engine.containers(run=run, running=True):
                    with suppress(AssertionError):  # it has just ended
                        self.engine.docker("exec", container, "touch", "/tmp/end")
            return not left

        self.until(asked, within=within)
        return self.ended(*runs, state=state)

    # -- the end

    def look(self) -> None:
        """Note where each acknowledged run stands now."""
        self.history.add(*self.truth.standings(time.time(), self.history.submitted))

    def judge(self) -> Verdict:
        """Wait for the end of everything, then check the invariants; faults must be over, agents there."""
        runs = self.history.submitted
        left: list[str] = []
        try:
            self.until(lambda: not self.truth.left(), within=30)
            self.until(lambda: not self.orphans(), within=15)
        except AssertionError:
            left = self.orphans()
        self.look()
        history = History(_merged(self.truth.events(), [*self.history.events, *self._container_events()]))
        (self.folder / "history.txt").write_text("\n".join(map(str, history.events)))
        return Verdict(len(runs), violations(history, all_ended=True), left)

    def orphans(self) -> list[str]:
        """Name what is left without an owner: on the engine, in the agents' folders, in the database."""
        found = [*self.engine.leftovers(len(self.agents)), *self.truth.left()]
        for folder in self.folder.glob("d-*"):
            for place in ("attempts", "work"):
                found += [f"file {path}" for path in (folder / place).glob("*")]
        return found

    def close(self) -> None:
        """End everything that the scenario has started."""
        for action in reversed(self._cleanups):
            action()
        for client in self._clients.values():
            client.close()
        for wire in self.wires:
            wire.close()
        for program in [*self.agents.values(), *self.queues.values()]:
            program.kill()
        for pid in processes_of(self.folder):
            os.kill(pid, signal.SIGKILL)
        self.ground.start_postgres()
        self.postgres.psql(f"DROP DATABASE {self.truth.database} WITH (FORCE)")

    def _container_events(self) -> list[Event]:
        known = set(self.history.submitted) | {event.run for event in self.truth.events()}
        found = [event for watch in self.watches for event in watch.events() if event.run in known]
        return sorted(found, key=lambda event: event.at)


def _merged(committed: list[Event], others: list[Event]) -> list[Event]:
    """Merge by time what the database committed, whose order stands, with what others saw."""
    keyed: list[tuple[float, int, int, Event]] = []
    latest = 0.0
    for number, event in enumerate(committed):
        latest = max(latest, event.at)
        keyed.append((latest, 0, number, event))
    keyed += [(event.at, 1, number, event) for number, event in enumerate(others)]
    return [event for *_, event in sorted(keyed, key=lambda item: item[:3])]
