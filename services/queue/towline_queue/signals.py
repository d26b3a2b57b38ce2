"""Wake-ups inside one process: who changes something says so, who waits for it wakes.

A signal carries no state, only "look again": several become one, a missed one costs a poll, and a
restart loses nothing. Announce after the commit, never before it. Other replicas announce nothing
here, so every waiter also looks at the database once per `POLL`.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from enum import Enum
from typing import Final, NamedTuple

__all__ = ["POLL", "Key", "Signals", "Topic", "Watch"]

POLL: Final = timedelta(seconds=1)
"""How long a waiter waits at most before it looks at the database by itself."""

_MAX_NAMES: Final = 1024


class Topic(Enum):
    """What can be announced."""

    RUN = "run"
    """A run's row or one of its attempts changed."""
    LOG = "log"
    """A log of the run grew."""
    READY = "ready"
    """A queue has a new run to hand out, or hands out again."""
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
        self._names: set[str] | None = set()

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

    def take_names(self) -> frozenset[str] | None:
        """Return the names announced since the last call; None: too many to remember, look at all."""
        names, self._names = self._names, set()
        return None if names is None else frozenset(names)

    def _notice(self, name: str) -> None:
        if self._names is not None:
            self._names.add(name)
            if len(self._names) > _MAX_NAMES:
                self._names = None
        self._event.set()


class Signals:
    """The announcements of one process; all methods are called on its event loop."""

    def __init__(self) -> None:
        self._watches: dict[Key, set[Watch]] = {}

    def run_changed(self, run: str) -> None:
        """Announce that a run's row or one of its attempts changed."""
        self._announce(Topic.RUN, run)

    def log_grew(self, run: str) -> None:
        """Announce that a log of a run grew."""
        self._announce(Topic.LOG, run)

    def queue_ready(self, queue: str) -> None:
        """Announce that a queue has a new run to hand out, or hands out again."""
        self._announce(Topic.READY, queue)

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
        for key in keys:
            self._watches.setdefault(key, set()).add(watch)
        try:
            yield watch
        finally:
            for key in keys:
                watches = self._watches[key]
                watches.discard(watch)
                if not watches:
                    del self._watches[key]

    def _announce(self, topic: Topic, name: str) -> None:
        for key in (Key(topic, name), Key(topic)):
            for watch in self._watches.get(key, ()):
                watch._notice(name)
