"""The rows of the queue's database in memory; times are seconds of its clock."""

from dataclasses import dataclass, field
from datetime import timedelta
from uuid import UUID

from towline.v1 import queues_pb2
from towline_queue.core.lease_ids import AttemptKey
from towline_queue.core.transitions import State


@dataclass
class RunRow:
    """A row of `runs`."""

    name: str
    seq: int
    queue: str
    priority: int
    shape: int
    state: State
    spec: bytes
    grace: timedelta
    max_wait: timedelta | None
    retry_policy: bytes
    epoch: int = 0
    cancel_requested: bool = False
    preempt_epoch: int | None = None
    failure: bytes | None = None
    outputs: str = ""


@dataclass
class LeaseRow:
    """A row of `leases`."""

    key: AttemptKey
    session: UUID
    agent: str
    gpu_ids: tuple[str, ...]
    lost_after: float
    grant_time: float
    accepted: bool = False


@dataclass
class AttemptRow:
    """A row of `attempts`."""

    agent: str
    outcome: int = 0
    finish_id: UUID | None = None
    cause: int = 0
    event_seq: int = 0


@dataclass
class AgentRow:
    """A row of `agents`."""

    instance_id: str
    hostname: str
    session: UUID | None
    session_epoch: int = 0
    hello_seq: int = 0
    draining: bool = False
    drain_deadline: float | None = None
    withheld: str = ""


@dataclass
class SessionRow:
    """A row of `sessions`."""

    agent: str
    epoch: int
    seen: float
    disconnected_after: float


@dataclass
class Tables:
    """All rows; times are seconds of the database's clock."""

    queues: dict[str, queues_pb2.QueueSpec] = field(default_factory=dict)
    paused: set[str] = field(default_factory=set)
    runs: dict[str, RunRow] = field(default_factory=dict)
    ready: dict[str, tuple[float, float | None]] = field(default_factory=dict)
    """By run: waits since, and expires at."""
    scheduled: dict[str, float] = field(default_factory=dict)
    leases: dict[str, LeaseRow] = field(default_factory=dict)
    attempts: dict[AttemptKey, AttemptRow] = field(default_factory=dict)
    agents: dict[str, AgentRow] = field(default_factory=dict)
    sessions: dict[UUID, SessionRow] = field(default_factory=dict)
    leaders: dict[str, tuple[UUID, float]] = field(default_factory=dict)
