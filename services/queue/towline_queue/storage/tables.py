"""The queue service's tables (schema `queue`). Migrations are made from these definitions.

A run that has not ended is in exactly one of `ready`, `scheduled` and `leases`: where it is, is its
state, and a move is one statement that deletes here and inserts there. What it is, and how it ended,
stands in `runs`. Every write about an attempt compares the epoch of its row in `leases`.
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
    "MAX_WAITING",
    "SCHEMA",
    "agents",
    "attempts",
    "launch_specs",
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
MAX_WAITING: Final = 64
"""Most runs of one row in `ready`: few enough that dispatchers do not keep each other waiting for one."""
_SEQS: Final = 2048  # more than the runs of any statement

metadata = MetaData(schema=SCHEMA)
_Time = DateTime(timezone=True)
# Names are compared byte by byte: faster, and the same on every server.
_Name = Text(collation="C")

queues = Table(
    "queues",
    metadata,
    Column("name", _Name, primary_key=True, comment="queues/{queue}"),
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

launch_specs = Table(
    "launch_specs",
    metadata,
    # What all runs of one job version, queue spec and choice of options share, so a run keeps only its own.
    Column("digest", LargeBinary, primary_key=True, comment="sha256, see storage.launch_specs"),
    Column("spec", LargeBinary, nullable=False, comment="towline.v1.LaunchSpec, the shared fields"),
    Column("queue_spec", LargeBinary, nullable=False, comment="digest in queue_specs"),
    # Of the spec; read where many runs are looked at.
    Column("max_wait", Interval, comment="how long a run may wait for an agent; null: no limit"),
    Column("retry_policy", LargeBinary, comment="towline.v1.RetryPolicy; null: the defaults"),
)

# Written twice: when a run is submitted, and when it has ended. No index has a column of the second
# time and pages keep room for it, so that it is a HOT update.
# Runs of one request that come after each other, to one queue and of one job version, are a span. Their names
# are neighbours, so the first one in an index leads to all of them.
runs = Table(
    "runs",
    metadata,
    Column("name", _Name, primary_key=True, comment="runs/{run}; ids sort by time"),
    Column(
        "seq",
        BigInteger,
        Identity(always=True, increment=_SEQS),
        nullable=False,
        comment="order of submission",
    ),
    Column("queue", _Name, nullable=False),
    Column("priority", SmallInteger, nullable=False, comment="towline.v1.Priority"),
    Column("shape", SmallInteger, nullable=False, comment="GPUs of one attempt"),
    Column("job_version", _Name, nullable=False),
    Column("author", Text, nullable=False, server_default=""),
    Column("labels", JSONB, nullable=False, server_default=text("'{}'")),
    Column("variables", JSONB, nullable=False, server_default=text("'{}'"), comment="name → JSON text"),
    Column("launch_spec", LargeBinary, nullable=False, comment="digest in launch_specs"),
    Column("own_spec", LargeBinary, nullable=False, comment="towline.v1.LaunchSpec, the run's own fields"),
    Column("retry_of", Text, nullable=False, server_default=""),
    Column("create_time", _Time, nullable=False, server_default=func.now()),
    Column("state", SmallInteger, comment="towline.v1.RunState; null: it has not ended"),
    Column("detail", Text, comment="how it came to its end, for people; null: nothing to tell"),
    Column("failure", LargeBinary, comment="towline.v1.Failure"),
    Column("outputs", Text, nullable=False, server_default=""),
    Column("end_time", _Time),
    Column("results", LargeBinary, comment="towline.v1.AttemptResult: what it told; null: nothing"),
    Column(
        "span_size",
        SmallInteger,
        nullable=False,
        server_default=text("1"),
        comment="runs of the span that begins with it; 0: it is in that of another",
    ),
    Column("span_end", _Name, nullable=True, comment="name of the last one of them; null: it is alone"),
    Index("runs_by_queue", "queue", "name", postgresql_where=text("span_size > 0")),
    Index("runs_by_job_version", "job_version", "name", postgresql_where=text("span_size > 0")),
    postgresql_with={"fillfactor": 50},
)

# Runs of one kind that were submitted together wait as spans of up to MAX_WAITING: their names are neighbours
# and their sequence numbers follow each other. Who takes some of a span deletes it and inserts what is left:
# a new version of the row would be locked, but neither seen nor deleted, by a statement that began before it.
ready = Table(
    "ready",
    metadata,
    Column("queue", _Name, nullable=False),
    Column("shape", SmallInteger, nullable=False),
    Column("priority", SmallInteger, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("first_run", _Name, nullable=False),
    Column("size", SmallInteger, nullable=False, server_default=text("1"), comment="runs of the span"),
    Column("epoch", BigInteger, nullable=False, comment="of the next lease"),
    Column("number", Integer, nullable=False, comment="of the next attempt, from 1"),
    Column("detail", Text, nullable=False, server_default="", comment="why it waits again"),
    Column("ready_time", _Time, nullable=False, server_default=func.now(), comment="waits since"),
    Column("expire_time", _Time, comment="when it has waited for too long; null: never"),
    # A lane is a prefix of this key, so claiming is an index scan and matching is no filter. A run finds
    # its row by these columns too, for they are in `runs` and do not change.
    PrimaryKeyConstraint("queue", "shape", "priority", "seq"),
    Index("ready_by_expire_time", "expire_time", postgresql_where=text("expire_time IS NOT NULL")),
)

scheduled = Table(
    "scheduled",
    metadata,
    Column("run", _Name, primary_key=True),
    Column("due_time", _Time, nullable=False, index=True),
    Column("epoch", BigInteger, nullable=False, comment="of the next lease"),
    Column("number", Integer, nullable=False, comment="of the next attempt, from 1"),
    Column("detail", Text, nullable=False, server_default="", comment="why it waits again"),
)

agents = Table(
    "agents",
    metadata,
    Column("name", _Name, primary_key=True, comment="agents/{agent}"),
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
    Column(
        "withheld",
        Text,
        nullable=False,
        server_default="",
        comment="why it offers less than it has; empty: it does not",
    ),
)

sessions = Table(
    "sessions",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("agent", _Name, nullable=False, index=True),
    Column("epoch", BigInteger, nullable=False),
    # Not indexed on purpose: renewals stay HOT updates in a small table with room on each page.
    Column("seen_time", _Time, nullable=False, comment="last committed renewal"),
    Column("disconnected_after", Interval, nullable=False, comment="silence until it counts as unreachable"),
    postgresql_with={"fillfactor": 50},
)

# The current attempt of each run that an agent holds. What changes has no index and pages keep room for
# it, so that progress is a HOT update.
leases = Table(
    "leases",
    metadata,
    # A lease's id on the wire is made of these two, so that a result finds its attempt without an index.
    Column("run", _Name, primary_key=True),
    Column("epoch", BigInteger, nullable=False),
    Column("number", Integer, nullable=False, comment="of the attempt, from 1"),
    Column("session", Uuid, nullable=False),
    Column("agent", _Name, nullable=False, index=True),
    Column("queue", _Name, nullable=False),
    Column("gpu_ids", ARRAY(Text), nullable=False),
    Column("accepted", Boolean, nullable=False, server_default=text("false")),
    Column("lost_after", Interval, nullable=False, comment="how long a renewal of the session holds it"),
    Column("grant_time", _Time, nullable=False, server_default=func.now()),
    Column("state", SmallInteger, nullable=False, comment="towline.v1.RunState"),
    Column("detail", Text, nullable=False, server_default="", comment="what goes on, for people"),
    Column("event_seq", BigInteger, nullable=False, server_default=text("0")),
    Column("prepare_time", _Time),
    Column("start_time", _Time),
    Column("image_outcome", SmallInteger, nullable=False, server_default=text("0")),
    Column("image_id", Text, nullable=False, server_default=""),
    Column("stop_requested", SmallInteger, comment="towline.v1.StopReason; null: go on"),
    Column("image_time", _Time),
    Column("image_facts", LargeBinary, comment="towline.v1.AttemptImage; null: not told"),
    postgresql_with={"fillfactor": 50},
)

# Append-only, one row per attempt that has ended; a month is one partition, which is dropped when it is old.
attempts = Table(
    "attempts",
    metadata,
    Column("run", _Name, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("agent", _Name, nullable=False),
    Column("gpu_ids", ARRAY(Text), nullable=False),
    Column("lease_time", _Time, nullable=False),
    Column("prepare_time", _Time),
    Column("start_time", _Time),
    Column("end_time", _Time, nullable=False, server_default=func.now()),
    Column("image_outcome", SmallInteger, nullable=False),
    Column("image_id", Text, nullable=False),
    Column("outcome", SmallInteger, nullable=False),
    Column("finish_id", Uuid, comment="tells a repeated result from a stale one"),
    Column("exit_code", Integer),
    Column("failure", LargeBinary, comment="towline.v1.Failure"),
    Column("cause", SmallInteger, nullable=False, server_default=text("0"), comment="of the failure"),
    Column("outputs", Text, nullable=False, server_default=""),
    Column("image_time", _Time),
    Column("image_facts", LargeBinary, comment="towline.v1.AttemptImage; null: not told"),
    PrimaryKeyConstraint("run", "epoch", "end_time"),
    postgresql_partition_by="RANGE (end_time)",
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
    Column("first_time", _Time, comment="when its first bytes were stored"),
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
