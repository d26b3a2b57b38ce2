"""The queue service's tables (schema `queue`). Migrations are made from these definitions.

`runs` is the truth. `ready` and `scheduled` are indexes of it that are only inserted into and
deleted from; `leases` and `sessions` are what the dispatcher works on. Every write about an
attempt compares `epoch`.
"""

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Identity,
    Index,
    Integer,
    Interval,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    Uuid,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from towline.service.postgres import requests_table

__all__ = [
    "SCHEMA",
    "agents",
    "attempts",
    "leaders",
    "leases",
    "log_chunks",
    "log_streams",
    "metadata",
    "queue_specs",
    "queues",
    "ready",
    "requests",
    "runs",
    "scheduled",
    "sessions",
]

SCHEMA: Final = "queue"

metadata = MetaData(schema=SCHEMA)
_Time = DateTime(timezone=True)

queues = Table(
    "queues",
    metadata,
    Column("name", Text, primary_key=True, comment="queues/{queue}"),
    Column("spec", LargeBinary, nullable=False, comment="towline.v1.QueueSpec"),
    Column("lost_after", Interval, nullable=False, comment="of the spec; new leases take it"),
    Column("paused", Boolean, nullable=False, server_default=text("false")),
    Column("revision", BigInteger, nullable=False, server_default=text("1"), comment="the etag"),
    Column("create_time", _Time, nullable=False, server_default=func.now()),
)

queue_specs = Table(
    "queue_specs",
    metadata,
    # Every spec a queue ever had, so that repeating a run fills the very template it was made with.
    Column("digest", LargeBinary, primary_key=True, comment="sha256 of `spec`"),
    Column("spec", LargeBinary, nullable=False, comment="towline.v1.QueueSpec"),
)

runs = Table(
    "runs",
    metadata,
    Column("name", Text, primary_key=True, comment="runs/{run}; ids sort by time"),
    Column("seq", BigInteger, Identity(always=True), nullable=False, comment="order of submission"),
    Column("queue", Text, nullable=False),
    Column("priority", SmallInteger, nullable=False, comment="towline.v1.Priority"),
    Column("shape", SmallInteger, nullable=False, comment="GPUs of one attempt"),
    Column("state", SmallInteger, nullable=False, comment="towline.v1.RunState"),
    Column("epoch", BigInteger, nullable=False, server_default=text("0"), comment="of the newest lease"),
    Column("cancel_requested", Boolean, nullable=False, server_default=text("false")),
    Column("preempt_epoch", BigInteger, comment="the attempt to preempt; void for any other"),
    Column("state_detail", Text, nullable=False, server_default=""),
    Column("job_version", Text, nullable=False),
    Column("display_name", Text, nullable=False),
    Column("author", Text, nullable=False, server_default=""),
    Column("labels", JSONB, nullable=False, server_default=text("'{}'")),
    Column("variables", JSONB, nullable=False, server_default=text("'{}'"), comment="name → JSON text"),
    Column("spec", LargeBinary, nullable=False, comment="towline.v1.LaunchSpec"),
    Column("queue_spec", LargeBinary, nullable=False, comment="digest in queue_specs"),
    # Of the spec, which may be large; read where many runs are looked at.
    Column("max_wait", Interval, comment="how long it may wait for an agent; null: no limit"),
    Column("retry_policy", LargeBinary, comment="towline.v1.RetryPolicy; null: the defaults"),
    Column("failure", LargeBinary, comment="towline.v1.Failure"),
    Column("outputs", Text, nullable=False, server_default=""),
    Column("retry_of", Text, nullable=False, server_default=""),
    Column("create_time", _Time, nullable=False, server_default=func.now()),
    Column("end_time", _Time),
    Index("runs_by_queue_state", "queue", "state"),
    Index("runs_by_seq", "seq", unique=True),
    Index("runs_by_job_version", "job_version", "seq"),
)

ready = Table(
    "ready",
    metadata,
    Column("queue", Text, nullable=False),
    Column("shape", SmallInteger, nullable=False),
    Column("priority", SmallInteger, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("run", Text, nullable=False, unique=True),
    Column("ready_time", _Time, nullable=False, server_default=func.now(), comment="waits since"),
    Column("expire_time", _Time, comment="when it has waited for too long; null: never"),
    # A lane is a prefix of this key, so claiming is an index scan and matching is no filter.
    PrimaryKeyConstraint("queue", "shape", "priority", "seq"),
    Index("ready_by_expire_time", "expire_time", postgresql_where=text("expire_time IS NOT NULL")),
)

scheduled = Table(
    "scheduled",
    metadata,
    Column("run", Text, primary_key=True),
    Column("due_time", _Time, nullable=False, index=True),
)

agents = Table(
    "agents",
    metadata,
    Column("name", Text, primary_key=True, comment="agents/{agent}"),
    Column("instance_id", Text, nullable=False),
    Column("boot_id", Text, nullable=False),
    Column("hostname", Text, nullable=False),
    Column("version", Text, nullable=False),
    Column("queues", ARRAY(Text), nullable=False),
    Column("capacity", LargeBinary, nullable=False, comment="towline.v1.Capacity"),
    Column("gpus", ARRAY(LargeBinary), nullable=False, comment="towline.v1.Gpu each"),
    Column("labels", JSONB, nullable=False, server_default=text("'{}'")),
    Column("draining", Boolean, nullable=False, server_default=text("false")),
    Column("drain_deadline", _Time, comment="when the runs left are preempted; null: never"),
    Column("hello_seq", BigInteger, nullable=False, server_default=text("0"), comment="of the last Hello"),
    Column("session_epoch", BigInteger, nullable=False, server_default=text("0")),
    Column("session", Uuid, comment="the current session; none after an orderly leave"),
)

sessions = Table(
    "sessions",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("agent", Text, nullable=False, index=True),
    Column("epoch", BigInteger, nullable=False),
    # Not indexed on purpose: renewals stay HOT updates in a small table with room on each page.
    Column("seen_time", _Time, nullable=False, comment="last committed renewal"),
    Column("disconnected_after", Interval, nullable=False, comment="silence until it counts as unreachable"),
    postgresql_with={"fillfactor": 50},
)

leases = Table(
    "leases",
    metadata,
    # A lease's id on the wire is made of these two, so that a result finds its attempt without an index.
    Column("run", Text, primary_key=True),
    Column("epoch", BigInteger, nullable=False),
    Column("session", Uuid, nullable=False),
    Column("agent", Text, nullable=False, index=True),
    Column("queue", Text, nullable=False),
    Column("gpu_ids", ARRAY(Text), nullable=False),
    Column("accepted", Boolean, nullable=False, server_default=text("false")),
    Column("lost_after", Interval, nullable=False, comment="how long a renewal of the session holds it"),
    Column("grant_time", _Time, nullable=False, server_default=func.now()),
)

attempts = Table(
    "attempts",
    metadata,
    Column("run", Text, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("agent", Text, nullable=False),
    Column("gpu_ids", ARRAY(Text), nullable=False),
    Column("event_seq", BigInteger, nullable=False, server_default=text("0")),
    Column("lease_time", _Time, nullable=False, server_default=func.now()),
    Column("prepare_time", _Time),
    Column("start_time", _Time),
    Column("end_time", _Time),
    Column("image_outcome", SmallInteger, nullable=False, server_default=text("0")),
    Column("image_id", Text, nullable=False, server_default=""),
    Column("outcome", SmallInteger, nullable=False, server_default=text("0")),
    Column("finish_id", Uuid, comment="tells a repeated result from a stale one"),
    Column("exit_code", Integer),
    Column("failure", LargeBinary, comment="towline.v1.Failure"),
    Column("cause", SmallInteger, nullable=False, server_default=text("0"), comment="of the failure"),
    Column("outputs", Text, nullable=False, server_default=""),
    PrimaryKeyConstraint("run", "epoch"),
)

leaders = Table(
    "leaders",
    metadata,
    Column("name", Text, primary_key=True, comment="of the work that is led"),
    Column("holder", Uuid, nullable=False, comment="the process that leads"),
    Column("term", BigInteger, nullable=False, comment="rises with each new leader"),
    Column("expires_at", _Time, nullable=False),
)

log_streams = Table(
    "log_streams",
    metadata,
    Column("run", Text, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("stream", SmallInteger, nullable=False, comment="towline.v1.LogStream"),
    Column("size", BigInteger, nullable=False, comment="bytes; the next offset"),
    PrimaryKeyConstraint("run", "epoch", "stream"),
)

log_chunks = Table(
    "log_chunks",
    metadata,
    Column("run", Text, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("stream", SmallInteger, nullable=False),
    Column("start", BigInteger, nullable=False, comment="offset of the first byte"),
    Column("data", LargeBinary, nullable=False),
    PrimaryKeyConstraint("run", "epoch", "stream", "start"),
)

requests = requests_table(metadata)
