"""Guards of the protocol, each broken on purpose: the model must find every one.

That a lease is valid from the sending of a heartbeat, and after a restart as it was before, is for the formal
model (tests/formal): the coincidence that shows it is too rare here.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from towline_agent.core import leases
from towline_agent.core.effects import Effect, Permit
from towline_queue.core import session_events as on
from towline_queue.core.lease_ids import AttemptKey
from towline_queue.core.reports import Result
from towline_queue.core.transitions import ACTIVE
from towline_testing import memory_store, model_node
from towline_testing.memory_store import MemoryLeaseStore, RunRow
from towline_testing.model_replica import Replica


@contextmanager
def renewed_before_commit() -> Iterator[None]:
    """Renewed leaves before the renewal is committed."""
    real = Replica._call

    def call(self: Replica, peer: Any, wanted: on.StoreCall) -> None:
        if not isinstance(wanted, on.Renew):
            real(self, peer, wanted)
            return
        store = self.store
        assert isinstance(store, MemoryLeaseStore)
        renewal = store._renewal(wanted.session) if store._is_current(wanted.session) else None

        def answer() -> None:
            self._tell(peer, on.Renewed(renewal))
            self._read(peer)

        self._transact(lambda: self._carry_out(wanted), lambda _: None, lambda _: None)
        self.later(0.0, answer)

    with patch.object(Replica, "_call", call):
        yield


@contextmanager
def stale_finish_accepted() -> Iterator[None]:
    """The epoch is missing from the UPDATE that commits a result."""
    real = MemoryLeaseStore._finish

    def active(self: MemoryLeaseStore, key: AttemptKey) -> bool:
        run = self.tables.runs.get(key.run)
        return run is not None and run.state in ACTIVE

    def finish(self: MemoryLeaseStore, results: Sequence[Result]) -> Any:
        with patch.object(MemoryLeaseStore, "_active", active):
            return real(self, results)

    with patch.object(MemoryLeaseStore, "_finish", finish):
        yield


@contextmanager
def watchdog_off() -> Iterator[None]:
    """Nobody ends a container while its agent cannot."""
    with patch.object(model_node.Node, "_watch", lambda _: None):
        yield


@contextmanager
def start_without_permit() -> Iterator[None]:
    """A container starts before the queue has acknowledged that the grant was taken."""
    real = leases.LeaseBook.grant_kept

    def grant_kept(self: leases.LeaseBook, key: Any, now: float) -> list[Effect]:
        return [*real(self, key, now), Permit(key)]

    with patch.object(leases.LeaseBook, "grant_kept", grant_kept):
        yield


@contextmanager
def late_hello_accepted() -> Iterator[None]:
    """A Hello that comes after a later one opens a session."""
    with patch.object(memory_store, "check_order", lambda *_: None):
        yield


@contextmanager
def epoch_not_raised() -> Iterator[None]:
    """A claim takes the epoch that is there."""
    real = MemoryLeaseStore._claim

    def claim(self: MemoryLeaseStore, run: RunRow, *rest: Any) -> Any:
        run.epoch -= run.epoch > 0
        return real(self, run, *rest)

    with patch.object(MemoryLeaseStore, "_claim", claim):
        yield


@contextmanager
def retry_forgotten() -> Iterator[None]:
    """A run that is to be tried again gets no place in its queue."""
    real = MemoryLeaseStore._wait

    def wait(self: MemoryLeaseStore, run: RunRow) -> None:
        if not run.epoch:
            real(self, run)

    with patch.object(MemoryLeaseStore, "_wait", wait):
        yield


@contextmanager
def reaper_trusts_nobody() -> Iterator[None]:
    """The reaper takes leases back once their sessions are silent, not when they have expired."""
    real = MemoryLeaseStore.take_back_lost

    async def take_back_lost(self: MemoryLeaseStore, healthy_for: Any) -> Any:
        for lease in self.tables.leases.values():
            lease.lost_after = min(lease.lost_after, 30.0)
        return await real(self, healthy_for)

    with patch.object(MemoryLeaseStore, "take_back_lost", take_back_lost):
        yield


MUTANTS: dict[str, Callable[[], Any]] = {
    mutant.__name__.replace("_", " "): mutant
    for mutant in (
        renewed_before_commit,
        stale_finish_accepted,
        watchdog_off,
        start_without_permit,
        late_hello_accepted,
        epoch_not_raised,
        retry_forgotten,
        reaper_trusts_nobody,
    )
}
