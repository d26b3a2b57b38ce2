"""Ending one lease's container: what is ordered, what time demands, and what an earlier start has left to do.

The functions change the lease and return what is to be done.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from towline.v1 import leases_pb2
from towline_agent.core.effects import Effect, Execute, KeepFinish, Kill, StopContainer
from towline_agent.core.lease import Lease
from towline_agent.core.phases import Phase, Step, works
from towline_agent.core.stops import Exit, Signalled, Stop, StopReason, Window

__all__ = ["Restored", "due", "execute", "next_due", "note", "order", "restore"]

_NEVER: Final = float("inf")


@dataclass(frozen=True)
class Restored:
    """A lease as an earlier start of the agent has left it on disk."""

    grant: leases_pb2.Grant
    exit: Exit | None = None
    finish: leases_pb2.Finish | None = None
    window: Window | None = None
    """Its deadlines, if they were written during this boot."""
    started_at: float | None = None
    """When its container was started; minus infinity: before this boot."""
    signalled: Signalled | None = None
    begun: bool = True
    """Whether its container may have been started."""


def restore(kept: Restored, now: float) -> tuple[Lease, list[Effect]]:
    """Take up a lease of an earlier start: its time goes on as it was, and what nobody knows is over."""
    lease = Lease(kept.grant, renewed_at=now, phase=Phase.LEASED, answered=True)
    lease.begun = kept.begun or kept.started_at is not None
    if kept.finish is not None:
        lease.finish, lease.finish_kept = kept.finish, True
        lease.advance(Step.FINISH)
        return lease, []
    lease.exit = kept.exit
    lease.hold_until(kept.window.stop_at if kept.window else now)
    if kept.started_at is not None and kept.started_at != -_NEVER:
        lease.limit_at = kept.started_at + lease.max_runtime
    elif kept.window and kept.window.reason is StopReason.TIMEOUT:
        lease.limit_at = kept.window.stop_at
    signalled = kept.signalled
    if kept.exit is None and kept.started_at == -_NEVER:
        # No container outlives its boot, whatever the engine makes of it.
        signalled = Signalled(signalled.reason if signalled else StopReason.EXPIRED, -_NEVER)
    if signalled is not None:
        note(lease, signalled, kept.window.kill_at if kept.window else signalled.at)
        left = timedelta(seconds=max(0.0, lease.kill_at - now))
        lease.stop = Stop(signalled.reason, left)
        return lease, [*execute(lease), StopContainer(lease.key, lease.stop)]
    # A container that has ended needs nobody's leave to be told of.
    return lease, execute(lease) if kept.exit else due(lease, now)


def note(lease: Lease, signalled: Signalled, kill_at: float) -> None:
    """Take a stop signal into account that somebody else has sent; `kill_at`: if that does not say it."""
    grace = signalled.grace
    lease.kill_at = kill_at if grace is None else signalled.at + grace.total_seconds()
    lease.signalled_at = signalled.at
    if lease.stop is None or signalled.reason > lease.stop.reason:
        lease.stop = Stop(signalled.reason, grace or timedelta(0))


def execute(lease: Lease) -> list[Effect]:
    """Have the attempt brought to a result, unless that is under way."""
    if lease.executing or lease.finish is not None:
        return []
    lease.executing = True
    return [Execute(lease.key)]


def order(lease: Lease, reason: StopReason, grace: timedelta, now: float) -> list[Effect]:
    """Order a stop; a weaker one than before changes nothing, and no order moves a deadline back."""
    if not works(lease.phase) or lease.finish is not None:
        return []
    if lease.stop is not None and reason <= lease.stop.reason:
        return []
    lease.stop = Stop(reason, grace)
    if lease.signalled_at is not None:
        lease.kill_at = min(lease.kill_at, now + grace.total_seconds())
    return [*execute(lease), StopContainer(lease.key, lease.stop)]


def due(lease: Lease, now: float) -> list[Effect]:
    """Do what time demands."""
    if lease.phase is Phase.FINISHED and lease.finish and now >= lease.retry_at:
        lease.retry_at = _NEVER
        return [KeepFinish(lease.key, lease.finish)]
    if not _may_run(lease):
        return []
    effects: list[Effect] = []
    if now >= lease.limit_at:
        effects += order(lease, StopReason.TIMEOUT, lease.grace, now)
    if now >= lease.stop_at and lease.stop is None:
        left = timedelta(seconds=max(0.0, lease.dead_by - now))
        effects += order(lease, StopReason.EXPIRED, min(lease.grace, left), now)
        # Whatever is renewed from now on: it was told to end.
        lease.kill_at = min(lease.kill_at, lease.dead_by)
    if lease.stop is not None and not lease.killed and now >= min(lease.kill_at, lease.dead_by):
        lease.killed = True
        if lease.signalled_at is None:
            lease.signalled_at = now
        effects.append(Kill(lease.key))
    return effects


def next_due(lease: Lease) -> float:
    """Return when `due` has something to do, infinity if never."""
    if lease.phase is Phase.FINISHED:
        return lease.retry_at
    if not _may_run(lease):
        return _NEVER
    limit_at = lease.limit_at if lease.stop is None or lease.stop.reason < StopReason.TIMEOUT else _NEVER
    if lease.stop is None:
        return min(lease.stop_at, limit_at)
    return limit_at if lease.killed else min(lease.kill_at, lease.dead_by, limit_at)


def _may_run(lease: Lease) -> bool:
    return works(lease.phase) and lease.exit is None and lease.finish is None
