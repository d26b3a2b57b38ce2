"""Books of leases for tests: grants, and what a lease goes through until its container runs."""

from datetime import timedelta
from itertools import count
from typing import Any

from google.protobuf.duration_pb2 import Duration

from towline.v1 import docker_pb2, leases_pb2, runs_pb2
from towline_agent.core import effects as fx
from towline_agent.core.capacity import Capacity
from towline_agent.core.effects import Effect
from towline_agent.core.failures import ExitStatus
from towline_agent.core.lease import Key
from towline_agent.core.leases import LeaseBook
from towline_agent.core.phases import Phase
from towline_agent.core.stops import Exit, Stop

KEY = ("lease-1", 1)
TTL = 80.0
BEFORE_THIS_BOOT = -float("inf")


def seconds(value: float) -> Duration:
    made = Duration()
    made.FromTimedelta(timedelta(seconds=value))
    return made


def grant(key: Key = KEY, run: str = "runs/a", *, limit: float = 0, grace: float = 15) -> leases_pb2.Grant:
    spec = runs_pb2.LaunchSpec(run=run, docker=docker_pb2.DockerOptions(), stop_grace=seconds(grace))
    if limit:
        spec.limits.max_runtime.CopyFrom(seconds(limit))
    return leases_pb2.Grant(lease_id=key[0], epoch=key[1], attempt=1, ttl=seconds(TTL), spec=spec)


def book(slots: int = 2) -> LeaseBook:
    ids = count(1)
    made = LeaseBook(Capacity(slots, ()), 0, lambda: f"finish-{next(ids)}")
    made.engine(ready=True)
    return made


def running(made: LeaseBook, *, now: float = 0.0, **fields: Any) -> list[Effect]:
    """Bring a lease to where its container runs."""
    effects = made.granted(grant(**fields), now, now)
    effects += made.grant_kept(KEY, now)
    made.answered([KEY])
    effects += made.renewed([KEY], now)
    made.prepared(KEY)
    return effects + made.started(KEY, "container", now)


def kinds(effects: list[Effect]) -> list[type]:
    return [type(effect) for effect in effects if not isinstance(effect, fx.DeadlinesChanged)]


def stops(effects: list[Effect]) -> list[Stop]:
    return [effect.stop for effect in effects if isinstance(effect, fx.StopContainer)]


def phase(made: LeaseBook, key: Key = KEY) -> Phase:
    lease = made.find(key)
    return lease.phase if lease else Phase.GONE


def verdict(action: leases_pb2.VerdictAction.ValueType) -> leases_pb2.Verdict:
    return leases_pb2.Verdict(lease_id=KEY[0], epoch=KEY[1], action=action)


def cancel(
    grace: float = 15, reason: leases_pb2.StopReason.ValueType = leases_pb2.STOP_REASON_UNSPECIFIED
) -> leases_pb2.Cancel:
    return leases_pb2.Cancel(lease_id=KEY[0], epoch=KEY[1], grace=seconds(grace), reason=reason)


def ended(code: int, at: float) -> Exit:
    return Exit(ExitStatus(code), at)
