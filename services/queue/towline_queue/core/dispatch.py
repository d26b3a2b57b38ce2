"""One round of handing out, without input and output: credits are spent before the claim, and only then.

A heartbeat that comes while the claim is being committed cannot free them again, for it does not account
for their sequence numbers. What is not claimed after all is given back.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from towline_queue.core.leases import Claimed
from towline_queue.core.matching import Assignment, Offer, WaitingRun, match
from towline_queue.core.session_events import Granted
from towline_queue.core.session_protocol import SessionProtocol
from towline_queue.core.session_states import Phase

__all__ = ["HandOut"]


@dataclass(frozen=True)
class _Spent:
    """Credits of a session, spent for a run that is to be claimed."""

    session: SessionProtocol
    seq: int


class HandOut:
    """One round: `offers` and `choose` go into `LeaseStore.hand_out`, then `claimed` or `failed` is called.

    Args:
        sessions: The sessions of the process.
        now_s: As in `SessionProtocol.handle`.
        reserve_after: How long a run that fits nowhere yet is passed by smaller ones at most.
    """

    def __init__(
        self, sessions: Iterable[SessionProtocol], now_s: float, *, reserve_after: timedelta
    ) -> None:
        self._sessions = {session.key.id: session for session in sessions}
        self._reserve_after = reserve_after
        self._spent: dict[str, _Spent] = {}
        self.offers = [session.offer(now_s) for session in self._sessions.values()]
        """What the sessions could take."""

    @property
    def worthwhile(self) -> bool:
        """Whether anybody could take anything."""
        return any(offer.free_slots for offer in self.offers)

    def choose(self, offers: Sequence[Offer], waiting: Sequence[WaitingRun]) -> list[Assignment]:
        """Match, and spend the credits of what is to be claimed; see `store.Choose`."""
        assignments = [
            assignment
            for assignment in match(offers, waiting, reserve_after=self._reserve_after)
            if self._sessions[assignment.session].phase is Phase.OPEN  # it may have ended meanwhile
        ]
        for assignment in assignments:
            session = self._sessions[assignment.session]
            self._spent[assignment.run] = _Spent(session, session.credits.take(assignment.gpu_ids))
        return assignments

    def claimed(self, leases: Sequence[Claimed]) -> dict[UUID, Granted]:
        """Take what was committed and return what each session is to be told; the rest is given back.

        A session that could not have what was chosen for it gets nothing until its agent speaks again:
        the database knows better than its last word.
        """
        granted: dict[UUID, list[tuple[Claimed, int]]] = defaultdict(list)
        for lease in leases:
            granted[lease.session].append((lease, self._spent.pop(lease.key.run).seq))
        for spent in self._spent.values():
            spent.session.credits.distrust()
        self.failed()
        return {session: Granted(tuple(made)) for session, made in granted.items()}

    def failed(self) -> None:
        """Give back what was spent and not claimed, as far as anybody knows."""
        for spent in self._spent.values():
            spent.session.credits.give_back(spent.seq)
        self._spent.clear()
