"""Guards of the protocol, each broken on purpose: the model must find every one."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch
from weakref import WeakKeyDictionary

from towline_agent.core import leases
from towline_agent.core.effects import Effect, Permit
from towline_agent.core.lease import Lease
from towline_agent.core.phases import works
from towline_agent.core.protocol import AgentSession
from towline_queue.core import session_events as on
from towline_queue.core.lease_ids import AttemptKey
from towline_queue.core.reports import Result
from towline_queue.core.transitions import ACTIVE
from towline_testing import memory_store, model_node
from towline_testing.memory_runs import MemoryRuns
from towline_testing.memory_store import MemoryLeaseStore
from towline_testing.memory_tables import RunRow
from towline_testing.model_replica import Replica


@contextmanager
def renewed_before_commit() -> Iterator[None]:
    """Renewed leaves before the renewal is committed."""
    real = Replica._call
    seen: WeakKeyDictionary[Any, on.Renewed] = WeakKeyDictionary()

    def call(self: Replica, peer: Any, wanted: on.StoreCall) -> None:
        if not isinstance(wanted, on.Renew):
            real(self, peer, wanted)
            return
        store = self.store
        assert isinstance(store, MemoryLeaseStore)
        if not self.database_away or peer not in seen:
            seen[peer] = on.Renewed(store.renewal(wanted.session))

        def answer() -> None:
            self._tell(peer, seen[peer])
            self._read(peer)

        self.later(0.0, answer)
        self._transact(lambda: self._carry_out(wanted), lambda _: None, lambda _: None)

    with patch.object(Replica, "_call", call):
        yield


@contextmanager
def stale_finish_accepted() -> Iterator[None]:
    """The epoch is missing from the UPDATE that commits a result."""
    real = MemoryRuns.finish

    def active(self: MemoryRuns, key: AttemptKey) -> bool:
        run = self.tables.runs.get(key.run)
        return run is not None and run.state in ACTIVE

    def finish(self: MemoryRuns, results: Sequence[Result]) -> Any:
        with patch.object(MemoryRuns, "active", active):
            return real(self, results)

    with patch.object(MemoryRuns, "finish", finish):
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
    real = MemoryRuns.claim

    def claim(self: MemoryRuns, run: RunRow, *rest: Any) -> Any:
        run.epoch -= run.epoch > 0
        return real(self, run, *rest)

    with patch.object(MemoryRuns, "claim", claim):
        yield


@contextmanager
def retry_forgotten() -> Iterator[None]:
    """A run that is to be tried again gets no place in its queue."""
    real = MemoryRuns.wait

    def wait(self: MemoryRuns, run: RunRow) -> None:
        if not run.epoch:
            real(self, run)

    with patch.object(MemoryRuns, "wait", wait):
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


@contextmanager
def valid_from_receipt() -> Iterator[None]:
    """A lease holds from the moment at which the answer to its heartbeat came."""
    real = AgentSession.received

    def received(self: AgentSession, response: Any, now: float) -> list[Effect]:
        renewed = leases.LeaseBook.renewed

        def from_now(book: leases.LeaseBook, keys: Any, _: float) -> list[Effect]:
            return renewed(book, keys, now)

        with patch.object(leases.LeaseBook, "renewed", from_now):
            return real(self, response, now)

    with patch.object(AgentSession, "received", received):
        yield


@contextmanager
def restored_valid_from_now() -> Iterator[None]:
    """What an earlier start of the agent held is taken to be renewed when the agent begins."""
    with patch.object(Lease, "hold_until", lambda *_: None):
        yield


@contextmanager
def given_back_though_begun() -> Iterator[None]:
    """An agent that is to stop an attempt gives its lease back, though its container has been started."""
    with patch.object(Lease, "returnable", property(lambda lease: works(lease.phase))):
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
        valid_from_receipt,
        restored_valid_from_now,
        given_back_though_begun,
    )
}


def table() -> str:
    """Write the list as docs/chaos.md has it."""
    lines = ["| found by the model | what is broken |", "|---|---|"]
    lines += [f"| {name} | {(mutant.__doc__ or '').rstrip('.')} |" for name, mutant in MUTANTS.items()]
    return "\n".join(lines) + "\n"
