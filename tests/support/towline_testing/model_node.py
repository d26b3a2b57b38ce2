"""A node in a model: what outlives its agent (disk, containers, watchdog), with the real deadlines core."""

import random
from dataclasses import dataclass, field, replace

from towline.v1 import leases_pb2
from towline_agent.core.deadlines import Deadline, Expired, Progress, due, next_due
from towline_agent.core.failures import ExitStatus
from towline_agent.core.lease import Key
from towline_agent.core.orders import Restored
from towline_agent.core.stops import Exit, Signalled, StopReason, Window
from towline_testing.history import Died, History, Started
from towline_testing.model_conditions import Conditions
from towline_testing.model_timeline import Timeline

_LOOK_AGAIN_S = 2.1


@dataclass
class Record:
    """One attempt in the journal; moments are of the boot they come with."""

    grant: leases_pb2.Grant
    started: tuple[int, float] | None = None
    signalled: tuple[int, Signalled] | None = None
    expired: tuple[int, Expired] | None = None
    exit: tuple[int, Exit] | None = None
    finish: leases_pb2.Finish | None = None


@dataclass
class Container:
    """A container that was started; it is removed by its agent."""

    id: str
    key: Key
    run: str
    started_at: float
    """By the node's clock."""
    stubborn: bool
    """Whether it takes no notice of a stop signal."""
    code: int
    running: bool = True
    ended_at: float = 0.0


@dataclass
class Disk:
    """What an agent keeps; every write is whole or not at all."""

    records: dict[Key, Record] = field(default_factory=dict)
    deadlines: tuple[Deadline, ...] = ()
    deadlines_boot: int = 0
    starts: int = 0
    full: bool = False


class Node:
    """One machine.

    Args:
        timeline: Virtual time.
        chance: For what containers do.
        history: Gets the lives of containers.
        name: Of its agent.
        conditions: How long things take.
    """

    def __init__(
        self, timeline: Timeline, chance: random.Random, history: History, name: str, conditions: Conditions
    ) -> None:
        self.timeline = timeline
        self.name = name
        self.conditions = conditions
        self.disk = Disk()
        self.boot = 1
        self.containers: dict[Key, Container] = {}
        self.rate = chance.choice((0.99, 0.995, 1.0, 1.005, 1.01))
        """Of its clock; boottime never jumps."""
        self.watched = True
        """Whether the watchdog is at work."""
        self.on_end = _nobody
        """Told when a container ends."""
        self._booted_at = -100.0
        self._chance = chance
        self._history = history
        self._made = 0
        self._progress: dict[str, Progress] = {}
        self._looks = 0

    def clock(self) -> float:
        """Return CLOCK_BOOTTIME."""
        return (self.timeline.now - self._booted_at) * self.rate

    def reboot(self) -> None:
        """End every process; the disk stays, and what the engine knows of containers."""
        self.timeline.note("{} reboots", self.name)
        for container in self.containers.values():
            self.end(container, 137)
        self.boot += 1
        self._booted_at = self.timeline.now
        self._progress = {}

    # The engine

    def start(self, key: Key, run: str) -> Container:
        self._made += 1
        container = Container(
            id=f"{self.name}-{self._made}",
            key=key,
            run=run,
            started_at=self.clock(),
            stubborn=self._chance.random() < self.conditions.stubborn,
            code=self._chance.choice((0, 0, 0, 1)),
        )
        self.containers[key] = container
        self._history.add(Started(self.timeline.now, run, key[1], container.id))
        self.timeline.note("{} starts {} (epoch {})", container.id, run, key[1])
        lifetime = self._chance.choice(self.conditions.lifetimes)
        self.timeline.after(lifetime, lambda: self.end(container, container.code))
        return container

    def signal(self, container: Container) -> None:
        """Send the stop signal."""
        if not container.stubborn:
            self.timeline.after(self._chance.random() * 3, lambda: self.end(container, 143))

    def kill(self, container: Container) -> None:
        self.end(container, 137)

    def end(self, container: Container, code: int) -> None:
        """Let a container end, if it runs."""
        if not container.running:
            return
        container.running, container.code, container.ended_at = False, code, self.clock()
        self._history.add(Died(self.timeline.now, container.run, container.key[1], container.id))
        self.timeline.note("{} ends with {}", container.id, code)
        self.on_end(container.key)

    def remove(self, key: Key) -> None:
        if container := self.containers.pop(key, None):
            self.end(container, 137)

    # The disk

    def restored(self) -> list[Restored]:
        """Read the journal and the deadlines, as an agent that begins does."""
        windows = {}
        if self.disk.deadlines_boot == self.boot:
            windows = {(one.lease, one.epoch): one for one in self.disk.deadlines}
        found = []
        for key, record in self.disk.records.items():
            window = windows.get(key)
            signalled = self._signalled(record)
            found.append(
                Restored(
                    grant=record.grant,
                    exit=replace(record.exit[1], at=self._moment(record.exit[0], record.exit[1].at))
                    if record.exit
                    else None,
                    finish=record.finish,
                    window=Window(window.stop_at, window.kill_at, StopReason.from_word(window.reason))
                    if window
                    else None,
                    started_at=self._moment(*record.started) if record.started else None,
                    signalled=signalled,
                    begun=window is None or window.begun,
                )
            )
        return found

    def expired(self, key: Key) -> Signalled | None:
        """Return what the watchdog has noted about an attempt."""
        record = self.disk.records.get(key)
        if record is None or record.expired is None:
            return None
        boot, note = record.expired
        return Signalled(StopReason.from_word(note.reason), self._moment(boot, note.at))

    def _signalled(self, record: Record) -> Signalled | None:
        if record.signalled is not None:
            boot, signalled = record.signalled
            return replace(signalled, at=self._moment(boot, signalled.at))
        return self.expired((record.grant.lease_id, record.grant.epoch))

    def _moment(self, boot: int, at: float) -> float:
        return at if boot == self.boot else -float("inf")

    def write_deadlines(self, deadlines: tuple[Deadline, ...]) -> bool:
        """Replace the deadlines; whether that worked."""
        if self.disk.full:
            return False
        self.disk.deadlines, self.disk.deadlines_boot = deadlines, self.boot
        self._progress = {
            one.key: self._progress.get(one.key) or Progress(signalled=self._noted(one)) for one in deadlines
        }
        self._watch()
        return True

    # The watchdog

    def _noted(self, deadline: Deadline) -> bool:
        record = self.disk.records.get((deadline.lease, deadline.epoch))
        return record is not None and record.expired is not None

    def _watch(self) -> None:
        """Look when something falls due, and again later where a container was not there."""
        if not self.watched:
            return
        self._looks += 1
        number, now = self._looks, self.clock()
        again = now + _LOOK_AGAIN_S if any(one.absent_at for one in self._progress.values()) else float("inf")
        at = min(next_due(self.disk.deadlines, now), again)
        if at < float("inf"):
            self.timeline.after((at - now) / self.rate + 1e-6, lambda: self._act(number))

    def _act(self, number: int) -> None:
        if number != self._looks or self.disk.deadlines_boot != self.boot:
            return
        for action in due(self.disk.deadlines, self._progress, self.clock()):
            deadline = action.deadline
            container = self.containers.get((deadline.lease, deadline.epoch))
            if container is None or not container.running:
                self._progress[deadline.key] = replace(self._progress[deadline.key], absent_at=self.clock())
                continue
            record = self.disk.records.get(container.key)
            if record is not None and record.expired is None:
                record.expired = (self.boot, Expired(deadline.reason, self.clock()))
            self.timeline.note("watchdog of {}: {} to {}", self.name, action.signal, container.id)
            if action.signal == "SIGKILL":
                self.kill(container)
            else:
                self.signal(container)
            self._progress[deadline.key] = Progress(signalled=True)
        # Nobody makes a container for what is long over: an agent that thaws sees the time.
        gone = {one.key for one in self.disk.deadlines if self.clock() > one.kill_at + 60}
        self._progress = {
            key: replace(done, absent_at=None) if key in gone else done
            for key, done in self._progress.items()
        }
        self._watch()


def _nobody(key: Key) -> None:
    """No agent has begun yet."""


def status(container: Container) -> Exit:
    """Return how a container ended, as the engine tells it."""
    return Exit(ExitStatus(container.code, False, ""), container.ended_at)
