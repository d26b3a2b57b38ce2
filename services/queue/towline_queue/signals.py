"""Wake-ups inside one process: who changes something says so, who waits for it wakes.

A signal carries no state, only "look again": several become one, a missed one costs a poll, and a
restart loses nothing. Announce after the commit, never before it. What concerns other replicas is relayed
to them (see storage.notifications), but may be lost on the way, so every waiter also looks at the database
once per `POLL`.
"""

import asyncio
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from datetime import timedelta
from enum import StrEnum
from typing import Final, NamedTuple

__all__ = ["POLL", "Key", "Signals", "Topic", "Watch", "parse_ready_name", "ready_name"]

POLL: Final = timedelta(seconds=1)
"""How long a waiter waits at most before it looks at the database by itself."""

_MAX_NAMES: Final = 1024


class Topic(StrEnum):
    """What can be announced."""

    RUN = "run"
    """A run's row or one of its attempts changed."""
    LOG = "log"
    """A log of the run grew."""
    READY = "ready"
    """A queue has runs to hand out; the name is a `ready_name`."""
    STOP = "stop"
    """A run's current attempt is to be stopped: cancelled or preempted."""
    CREDITS = "credits"
    """An agent connected to this process can take more than before."""
    DRAIN = "drain"
    """An agent shall take no more runs."""


class Key(NamedTuple):
    """What is watched: one name, as "runs/{run}", or with None any of the topic."""

    topic: Topic
    name: str | None = None


class Watch:
    """One waiter's memory of what was announced for its keys since it last woke."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self._names: dict[Topic, set[str] | None] = {}

    async def wait(self, timeout: timedelta = POLL) -> bool:  # noqa: ASYNC109 - a poll interval, not a cancel
        """Wait for an announcement, at most `timeout`; return whether there was one.

        One that came since the last `wait` returned, or since the watch began, counts.
        """
        try:
            async with asyncio.timeout(timeout.total_seconds()):
                await self._event.wait()
        except TimeoutError:
            return False
        self._event.clear()
        return True

    def take_names(self, topic: Topic) -> frozenset[str] | None:
        """Return a topic's names announced since the last call; None: too many to remember, look at all."""
        names = self._names.pop(topic, set())
        return None if names is None else frozenset(names)

    def _notice(self, topic: Topic, name: str | None) -> None:
        self._notice_all(topic, None if name is None else (name,))

    def _notice_all(self, topic: Topic, new: Collection[str] | None) -> None:
        self._event.set()
        names = self._names.setdefault(topic, set())
        if names is None:
            return
        if new is not None and len(new) <= _MAX_NAMES:
            names.update(new)
        if new is None or max(len(new), len(names)) > _MAX_NAMES:
            self._names[topic] = None


class Signals:
    """The announcements of one process; all methods are called on its event loop."""

    def __init__(self) -> None:
        self._watches: dict[Topic, dict[str | None, set[Watch]]] = {topic: {} for topic in Topic}

    def run_changed(self, run: str) -> None:
        """Announce that a run's row or one of its attempts changed."""
        self._announce(Topic.RUN, run)

    def runs_changed(self, runs: Collection[str]) -> None:
        """Announce for each of many runs that its row or one of its attempts changed."""
        by_name = self._watches[Topic.RUN]
        if not by_name or not runs:
            return
        for watch in by_name.get(None, ()):
            watch._notice_all(Topic.RUN, runs)
        if len(by_name) > (None in by_name):  # else nobody watches a single one
            for name in by_name.keys() & runs:
                for watch in by_name[name]:
                    watch._notice(Topic.RUN, name)

    def log_grew(self, run: str) -> None:
        """Announce that a log of a run grew."""
        self._announce(Topic.LOG, run)

    def queue_ready(self, queue: str, shape: int | None = None) -> None:
        """Announce that a queue has runs to hand out.

        Args:
            queue: "queues/{queue}".
            shape: GPUs of each, if they are new; None: any, such as some that wait again at their old places.
        """
        self._announce(Topic.READY, ready_name(queue, shape))

    def stop_requested(self, run: str) -> None:
        """Announce that a run's current attempt is to be stopped: cancelled or preempted."""
        self._announce(Topic.STOP, run)

    def credits_changed(self, agent: str) -> None:
        """Announce that an agent connected to this process can take more than before."""
        self._announce(Topic.CREDITS, agent)

    def drain_requested(self, agent: str) -> None:
        """Announce that an agent shall take no more runs."""
        self._announce(Topic.DRAIN, agent)

    @contextmanager
    def watching(self, *keys: Key) -> Iterator[Watch]:
        """Give a watch of the keys; begin it before the first look, so that nothing falls between."""
        watch = Watch()
        for topic, name in keys:
            self._watches[topic].setdefault(name, set()).add(watch)
        try:
            yield watch
        finally:
            for topic, name in keys:
                watches = self._watches[topic][name]
                watches.discard(watch)
                if not watches:
                    del self._watches[topic][name]

    def relayed(self, topic: Topic, name: str | None, relay: Watch) -> None:
        """Announce what another replica did.

        Args:
            topic: What it is about.
            name: As in Key; None: too many to name.
            relay: The watch that hears what other replicas are to be told; it does not hear this.
        """
        self._announce(topic, name, relay)

    def _announce(self, topic: Topic, name: str | None, relay: Watch | None = None) -> None:
        by_name = self._watches[topic]
        if not by_name:
            return
        for key in (name, None) if name is not None else tuple(by_name):
            for watch in by_name.get(key, ()):
                if watch is not relay:
                    watch._notice(topic, name)


def ready_name(queue: str, shape: int | None) -> str:
    """Write what READY names: a queue, and the shape of its new runs if only those are meant."""
    return queue if shape is None else f"{queue} {shape}"


def parse_ready_name(name: str) -> tuple[str, int | None]:
    """Read a `ready_name`."""
    queue, _, shape = name.partition(" ")
    return queue, int(shape) if shape else None
