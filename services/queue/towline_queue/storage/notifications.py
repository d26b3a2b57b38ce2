"""Wake-ups between replicas: what one process announces, the others hear over PostgreSQL's LISTEN and NOTIFY.

A NOTIFY in each commit would make commits take turns, so one connection of its own sends what has gathered.
What gets lost on the way costs a poll at most. Logs are not relayed: they grow all the time, and few are
followed at another replica than the one that stores them.
"""

import asyncio
import logging
import random
from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import Any, Final

import asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine

from towline.errors import Unavailable
from towline.service.postgres import SERVER_SETTINGS, host_of, outage
from towline_queue.signals import Key, Signals, Topic, Watch

__all__ = ["CHANNEL", "Notifications"]

_log = logging.getLogger(__name__)

CHANNEL: Final = "towline_queue"
"""A notification on it is lines, each "{topic} {name}", or "{topic}" alone: too many to name."""

_SETTINGS: Final = SERVER_SETTINGS | {
    "application_name": "towline queue notifications",
    # It writes nothing that could be lost.
    "synchronous_commit": "off",
}
_SEND: Final = "SELECT pg_notify($1, payload) FROM unnest(CAST($2 AS text[])) AS payload"

# For what is announced together, and so that the local dispatcher, which hears it too, is first.
_GATHER_S: Final = 0.005
_REST_S: Final = 0.025
_PATIENCE: Final = timedelta(seconds=5)
_RETRY_S: Final = 1.0

_PAYLOAD_BYTES: Final = 7900  # PostgreSQL takes less than 8000
_MOST_PAYLOADS: Final = 4
# Whoever watches a run elsewhere sees it at the next poll when this many change at once.
_MOST_RUNS: Final = 64

_RELAYED: Final = (Topic.READY, Topic.STOP, Topic.DRAIN, Topic.RUN)


class Notifications:
    """The line of one process to the other replicas on its database.

    Args:
        engine: Where the database is.
        signals: What is announced in this process, and gets what the others announce.
    """

    def __init__(self, engine: AsyncEngine, signals: Signals) -> None:
        self._engine = engine
        self._signals = signals

    async def run(self) -> None:
        """Send and hear until cancelled; a connection that breaks is replaced."""
        with self._signals.watching(*(Key(topic) for topic in _RELAYED)) as outgoing:
            while True:
                try:
                    with outage(host_of(self._engine)):
                        await self._exchange(outgoing)
                except (Unavailable, TimeoutError) as error:
                    _log.warning("other replicas are heard of by polling for now: %s", error)
                except Exception:
                    # Polling does without it, so it must not end the service.
                    _log.exception("other replicas are heard of by polling for now")
                await asyncio.sleep(_RETRY_S * (0.5 + random.random()))  # noqa: S311 - jitter

    async def _exchange(self, outgoing: Watch) -> None:
        _, arguments = self._engine.dialect.create_connect_args(self._engine.url)
        connection: asyncpg.Connection[Any] = await asyncpg.connect(
            **arguments,
            server_settings=_SETTINGS,
            timeout=_PATIENCE.total_seconds(),
            command_timeout=_PATIENCE.total_seconds(),
        )
        try:
            sender = connection.get_server_pid()

            def hear(*notification: object) -> None:
                _, pid, _, payload = notification
                if pid != sender:
                    self._hear(str(payload), outgoing)

            await connection.add_listener(CHANNEL, hear)
            while True:
                # With nothing to say for a while, it is asked whether it is still there.
                if await outgoing.wait(_PATIENCE):
                    await asyncio.sleep(_GATHER_S)
                await connection.execute(_SEND, CHANNEL, list(_payloads(outgoing)))
                await asyncio.sleep(_REST_S)
        finally:
            connection.terminate()

    def _hear(self, payload: str, outgoing: Watch) -> None:
        for line in payload.splitlines():
            topic, _, name = line.partition(" ")
            if topic in _RELAYED:  # else it is of a newer version
                self._signals.relayed(Topic(topic), name or None, outgoing)


def _payloads(outgoing: Watch) -> Iterator[str]:
    """Write what was announced, in few notifications of bounded size."""
    lines = []
    for topic in _RELAYED:
        names = outgoing.take_names(topic)
        if topic is Topic.RUN and (names is None or len(names) > _MOST_RUNS):
            continue
        lines += [topic.value] if names is None else [f"{topic} {name}" for name in sorted(names)]
    payloads = list(_folded(lines))
    if len(payloads) > _MOST_PAYLOADS:
        yield "\n".join(dict.fromkeys(line.partition(" ")[0] for line in lines))
    else:
        yield from payloads


def _folded(lines: Iterable[str]) -> Iterator[str]:
    payload = ""
    for line in lines:
        longer = f"{payload}\n{line}" if payload else line
        if len(longer.encode()) > _PAYLOAD_BYTES:
            yield payload
            longer = line
        payload = longer
    if payload:
        yield payload
