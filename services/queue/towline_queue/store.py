"""The port to the database: everything that the lease side asks of it.

Each method is one transaction, and returns only after its commit; whoever is told of a change is told
after the method has returned. Every write about an attempt is a compare-and-set on (run, epoch), every
write about a session one on (session, agent): what matches nothing is stale and changes nothing. All of
them may run on any number of replicas at once.

A method that raises `Unavailable` may have been committed or not: nobody knows. Repeating any of them is
safe, but for `hand_out`, whose claims the agent's next inventory or `take_back_unanswered` settles.
"""

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Protocol
from uuid import UUID

from towline.errors import TowlineError
from towline_queue.core.dispatch import HandedOut, Search
from towline_queue.core.leases import (
    CarriedOut,
    Ended,
    LiveLease,
    Opened,
    Opening,
    Ready,
    Reconciled,
    Renewal,
    SessionKey,
)
from towline_queue.core.matching import Offer, Place, WaitingRun
from towline_queue.core.reports import SaidBy
from towline_queue.core.sessions import Inventory

__all__ = ["Choose", "LeaseStore"]

Choose = Callable[[Sequence[Offer], Sequence[WaitingRun] | None], Sequence[Place]]
"""Decides, inside the transaction of a `hand_out`, how many waiting runs of which lane go to which session.

It is called at most once per `hand_out`, does no input or output, and its GPUs are of those in the offers it
is given. Of the waiting runs it gets the first ones of each lane that is searched, or None where that is only
one lane: then it is chosen without knowing them.
"""


class LeaseStore(Protocol):
    """Runs, leases, sessions and agents, as far as leases are concerned.

    Every method may raise Unavailable/DATABASE_UNAVAILABLE.
    """

    # Sessions

    async def open_sessions(self, openings: Sequence[Opening]) -> Sequence[Opened | TowlineError]:
        """Give agents' names to new sessions, which fences those before them, and settle their leases.

        One answer each, as if they came one after another. An instance that is new to a name cannot speak
        for the one before it: that one's leases stay, until they expire. Of the same instance, a lease
        that is not in the inventory is over.

        A newcomer who is not let in is answered with the error, and changes nothing: NotFound where none
        of its queues exists (QUEUE_NOT_FOUND), AlreadyExists where another instance has the name and was
        heard lately (AGENT_ID_IN_USE), Aborted where a later Hello came before (HELLO_OUT_OF_DATE).
        """

    async def settle(self, session: SessionKey, inventory: Inventory) -> Reconciled | None:
        """Compare an open session's inventory with its leases; None if the session was superseded."""

    async def renew(self, keys: Sequence[SessionKey], *, look: bool = True) -> Sequence[Renewal | None]:
        """Renew sessions, one answer each, in order; None: superseded, and nothing was renewed.

        From here on each lease of the session holds for its own `ttl` again. With `look`, the leases are
        returned that were there once the renewal held.
        """

    async def leave(self, session: SessionKey) -> None:
        """End a session in order; one that still holds leases keeps them and just falls silent."""

    async def drain(self, session: SessionKey) -> None:
        """Keep an agent from getting more runs until its process starts anew, as it asked itself.

        A superseded session drains nobody: its agent's process may be a new one by now.
        """

    async def withhold(self, session: SessionKey, why: str) -> None:
        """Note why an agent takes no runs now, for people; empty: it does.

        A session begins without a reason, and a superseded one notes nothing.
        """

    # Attempts

    async def carry_out(self, said: Sequence[SaidBy]) -> CarriedOut:
        """Carry out reports in the order of their fields; what names a stale epoch changes nothing.

        A result may send its run into another attempt, see `core.retries`: then the run is SCHEDULED, or
        QUEUED at its old place. At most one result per attempt is ever committed.
        """

    async def stops(self, runs: Sequence[str]) -> Sequence[LiveLease]:
        """Return the leases on those of the runs whose attempts are to be stopped."""

    async def hand_out(
        self, offers: Sequence[Offer], searches: Sequence[Search], choose: Choose
    ) -> HandedOut:
        """Give waiting runs to sessions: the first ones of each lane to the places chosen for that lane.

        `choose` gets the offers, where GPUs are asked for less those that leases of their agents hold,
        whatever the agent says.
        What it chooses for a session that was superseded, drains or has been silent for
        `disconnected_after`, or with a GPU that a lease of the agent holds, is left out. Of the runs of a
        lane, those that are being cancelled or handed out by somebody else are passed over; a queue that
        is paused has none.
        """

    # What time demands

    async def lead(self, name: str, holder: UUID, term: timedelta) -> bool:
        """Take or keep the lead of some work for a while; whether `holder` leads now.

        A leader that does not call for a whole term is followed by whoever calls first.
        """

    async def take_back_lost(self, healthy_for: timedelta) -> Sequence[Ended]:
        """End the attempts whose leases have expired: `ttl` has passed since their session's renewal.

        Args:
            healthy_for: How long sessions could have renewed without a break; leases with a longer
                `ttl` are spared, for the silence may be this service's.
        """

    async def take_back_unanswered(self, reply_within: timedelta) -> Sequence[Ended]:
        """End the leases that an agent, heard since, has neither taken nor refused in that time."""

    async def promote(self) -> Sequence[Ready]:
        """Let scheduled runs that are due wait for an agent: first attempts and retries."""

    async def expire_waiting(self) -> Sequence[str]:
        """Fail runs that have waited longer than their `max_wait`, and return their names."""

    async def preempt_overdue_drains(self) -> Sequence[str]:
        """Have the attempts of agents whose drain deadline has passed preempted; return the runs' names."""

    async def forget_sessions(self) -> int:
        """Drop sessions that were followed by another and hold nothing any more; return how many."""

    async def forget_requests(self) -> int:
        """Drop some answers to requests that nobody repeats any more; return how many."""

    async def keep_attempts(self, keep: timedelta | None) -> bool:
        """Make room for the attempts of months to come, and drop those of months long over.

        Args:
            keep: How long the attempts of a month are kept once it is over; None: for ever.

        Returns:
            Whether all was done; what was not waits for the next call.
        """
