"""The lease side of the service, wired: sessions, dispatcher, upkeep."""

import asyncio
import logging
from datetime import timedelta
from typing import Final
from uuid import uuid4

from towline.errors import TowlineError
from towline_queue.connections import Connections, Session
from towline_queue.core.session_events import DrainWanted, ServiceStops, StopWanted
from towline_queue.core.session_protocol import service_stops
from towline_queue.dispatcher import Dispatcher
from towline_queue.reaper import Reaper, UpkeepTimes
from towline_queue.session_desk import SessionDesk
from towline_queue.settings import QueueSettings
from towline_queue.signals import POLL, Key, Signals, Topic
from towline_queue.store import LeaseStore

__all__ = ["Leasing"]

_log = logging.getLogger(__name__)

_STOPS: Final = ServiceStops(reconnect_after=timedelta(milliseconds=200), jitter=timedelta(seconds=2))
_GOODBYE: Final = timedelta(seconds=3)


class Leasing:
    """Everything that sessions need, for as long as the service runs.

    Args:
        store: The database.
        signals: Of the process.
        settings: Of the service.
    """

    def __init__(self, store: LeaseStore, signals: Signals, settings: QueueSettings) -> None:
        self.connections = Connections()
        self.desk = SessionDesk(store, signals)
        self._store = store
        self._signals = signals
        self.dispatcher = Dispatcher(
            store,
            signals,
            self.connections,
            reserve_after=timedelta(seconds=settings.reserve_after_s),
        )
        self._reaper = Reaper(
            store,
            signals,
            UpkeepTimes(
                every=timedelta(seconds=settings.upkeep_every_s),
                reply_within=timedelta(seconds=settings.grant_reply_within_s),
                keep_attempts=timedelta(days=settings.keep_attempts_days) or None,
            ),
        )
        self._stopping = False

    async def run(self) -> None:
        """Do the work of all sessions until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.desk.run(), name="desk")
            group.create_task(self.dispatcher.run(), name="dispatcher")
            group.create_task(self._reaper.run(), name="reaper")
            group.create_task(self._push_stops(), name="stops")
            group.create_task(self._push_drains(), name="drains")

    def new_session(self) -> Session:
        """Make a session for a stream that begins; Unavailable/SERVICE_STOPPING after `say_goodbye`."""
        if self._stopping:
            raise service_stops()
        return Session(uuid4(), self._signals, self.connections.pace)

    def admit(self, session: Session) -> None:
        """Register a session that is open now, or end it if the service stops."""
        if self._stopping:
            session.handle(_STOPS)
        else:
            self.connections.add(session)

    async def say_goodbye(self) -> None:
        """Send GoAway on every stream and wait, at most 3 s, until all have ended; leases stay."""
        self._stopping = True
        for session in self.connections:
            session.handle(_STOPS)
        try:
            async with asyncio.timeout(_GOODBYE.total_seconds()):
                await self.connections.wait_empty()
        except TimeoutError:
            _log.warning("some agents did not take leave in time")

    async def _push_stops(self) -> None:
        """Tell agents at once of attempts to be stopped; their heartbeats repeat it."""
        with self._signals.watching(Key(Topic.STOP)) as watch:
            while True:
                await watch.wait(POLL)
                names = watch.take_names(Topic.STOP)
                if not names:  # none, or too many to name: then the next heartbeats tell
                    continue
                try:
                    leases = await self._store.stops(sorted(names))
                except TowlineError as error:
                    _log.warning("stops wait for the next heartbeats: %s", error.message)
                    continue
                except Exception:
                    # What the next heartbeats tell as well must not end the service that runs depend on.
                    _log.exception("stops wait for the next heartbeats")
                    continue
                for lease in leases:
                    session = self.connections.get(lease.session)
                    if session is not None:
                        session.handle(StopWanted(lease))

    async def _push_drains(self) -> None:
        """Tell agents at once that they shall take no more runs; their heartbeats repeat it."""
        with self._signals.watching(Key(Topic.DRAIN)) as watch:
            while True:
                await watch.wait(POLL)
                for agent in watch.take_names(Topic.DRAIN) or ():
                    session = self.connections.of_agent(agent)
                    if session is not None:
                        session.handle(DrainWanted())
