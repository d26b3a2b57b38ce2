"""The lease side of the service, wired: sessions, dispatcher, upkeep."""

import asyncio
import logging
from datetime import timedelta
from typing import Final

from sqlalchemy.ext.asyncio import AsyncEngine

from towline.errors import TowlineError, Unavailable
from towline.v1 import leases_pb2
from towline_queue import lease_messages
from towline_queue.connections import Connections, Session
from towline_queue.dispatcher import Dispatcher
from towline_queue.reaper import Reaper
from towline_queue.session_desk import SessionDesk
from towline_queue.settings import QueueSettings
from towline_queue.signals import POLL, Key, Signals, Topic

__all__ = ["Leasing"]

_log = logging.getLogger(__name__)

_RECONNECT_AFTER: Final = timedelta(milliseconds=200)
_RECONNECT_JITTER: Final = timedelta(seconds=2)
_GOODBYE: Final = timedelta(seconds=3)


class Leasing:
    """Everything that sessions need, for as long as the service runs.

    Args:
        engine: The database.
        signals: Of the process.
        settings: Of the service.
    """

    def __init__(self, engine: AsyncEngine, signals: Signals, settings: QueueSettings) -> None:
        self.connections = Connections()
        self.desk = SessionDesk(engine, signals)
        self.signals = signals
        self._dispatcher = Dispatcher(
            engine,
            signals,
            self.connections,
            reserve_after=timedelta(seconds=settings.reserve_after_s),
        )
        self._reaper = Reaper(
            engine,
            signals,
            every=timedelta(seconds=settings.upkeep_every_s),
            reply_within=timedelta(seconds=settings.grant_reply_within_s),
        )
        self._stopping = False

    async def run(self) -> None:
        """Do the work of all sessions until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.desk.run(), name="desk")
            group.create_task(self._dispatcher.run(), name="dispatcher")
            group.create_task(self._reaper.run(), name="reaper")
            group.create_task(self._push_cancels(), name="cancels")
            group.create_task(self._push_drains(), name="drains")

    def admit(self, session: Session) -> None:
        """Register an open session.

        Raises:
            Unavailable: The service stops; SERVICE_STOPPING.
        """
        self.check_running()
        self.connections.add(session)

    def check_running(self) -> None:
        """Refuse what comes after `say_goodbye`; Unavailable/SERVICE_STOPPING."""
        if self._stopping:
            raise _stopping()

    async def say_goodbye(self) -> None:
        """Send GoAway on every stream and wait, at most 3 s, until all have ended; leases stay."""
        self._stopping = True
        for session in self.connections:
            session.close(
                _stopping(),
                lease_messages.go_away(
                    "the queue service stops", reconnect_after=_RECONNECT_AFTER, jitter=_RECONNECT_JITTER
                ),
            )
        try:
            async with asyncio.timeout(_GOODBYE.total_seconds()):
                await self.connections.wait_empty()
        except TimeoutError:
            _log.warning("some agents did not take leave in time")

    async def _push_cancels(self) -> None:
        """Tell agents at once of runs to be stopped; their heartbeats repeat it."""
        with self.signals.watching(Key(Topic.CANCEL)) as watch:
            while True:
                await watch.wait(POLL)
                names = watch.take_names()
                if not names:  # none, or too many to name: then the next heartbeats tell
                    continue
                try:
                    leases = await self.desk.cancels(sorted(names))
                except TowlineError as error:
                    _log.warning("cancels wait for the next heartbeats: %s", error.message)
                    continue
                for lease in leases:
                    session = self.connections.get(lease.session)
                    if session is not None:
                        cancels = [lease_messages.cancel(lease)]
                        session.send(leases_pb2.StreamLeasesResponse(cancels=cancels))

    async def _push_drains(self) -> None:
        """Tell agents at once that they shall take no more runs; their heartbeats repeat it."""
        with self.signals.watching(Key(Topic.DRAIN)) as watch:
            while True:
                await watch.wait(POLL)
                for agent in watch.take_names() or ():
                    session = self.connections.of_agent(agent)
                    if session is not None and not session.drain_told:
                        session.drain_told = True
                        session.send(leases_pb2.StreamLeasesResponse(drain=leases_pb2.Drain()))


def _stopping() -> Unavailable:
    return Unavailable("the queue service stops; connect again", reason="SERVICE_STOPPING")
