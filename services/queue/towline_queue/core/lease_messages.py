"""The lease protocol's messages, to and from the domain. Bounds are checked here, decisions are not made."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final
from uuid import UUID

from google.protobuf.duration_pb2 import Duration

from towline import names
from towline.errors import InvalidArgument
from towline.v1 import leases_pb2, runs_pb2
from towline_queue.core import attempt_images
from towline_queue.core.lease_ids import AttemptKey, lease_id, parse_lease_id
from towline_queue.core.leases import Claimed, Newcomer
from towline_queue.core.reports import FinishVerdict, Progress, Reply, Report, Result, Returned
from towline_queue.core.sessions import InventoryEntry, VerdictKind
from towline_queue.core.stops import Stop
from towline_queue.core.told import read_told
from towline_queue.core.transitions import State

__all__ = [
    "Introduction",
    "Said",
    "cancel",
    "confirm",
    "duration",
    "go_away",
    "grants",
    "inventory",
    "read_finishes",
    "read_hello",
    "read_messages",
    "verdicts",
    "withheld",
]

_MOST_QUEUES: Final = 64
_MOST_LABELS: Final = 64
_MOST_GPUS: Final = 64
_MOST_SLOTS: Final = 10_000
_MOST_INVENTORY: Final = 10_000
_LONGEST_WORD: Final = 256
_LONGEST_TEXT: Final = 4096
_LONGEST_REASON: Final = 1024
_LOG_TAIL: Final = 8 * 1024
_GRANT_BYTES: Final = 4 * 1024 * 1024
_GRANT_ROOM: Final = 4 * 1024  # for all of a grant but its spec

_PROGRESS: Final[Mapping[int, State]] = {
    state: state for state in (State.PREPARING, State.RUNNING, State.STOPPING)
}
_PASSED: Final = {state: frozenset({state}) for state in _PROGRESS.values()}
_ENDS: Final = {
    runs_pb2.ATTEMPT_OUTCOME_SUCCEEDED: State.SUCCEEDED,
    runs_pb2.ATTEMPT_OUTCOME_FAILED: State.FAILED,
    runs_pb2.ATTEMPT_OUTCOME_CANCELLED: State.CANCELLED,
}
_VERDICTS: Final = {
    VerdictKind.ADOPT: leases_pb2.VERDICT_ACTION_ADOPT,
    VerdictKind.STOP_STALE: leases_pb2.VERDICT_ACTION_STOP_STALE,
    VerdictKind.STOP_CANCELLED: leases_pb2.VERDICT_ACTION_STOP_CANCELLED,
    VerdictKind.STOP_PREEMPTED: leases_pb2.VERDICT_ACTION_STOP_PREEMPTED,
    VerdictKind.STOP_UNKNOWN: leases_pb2.VERDICT_ACTION_STOP_UNKNOWN,
    VerdictKind.FINISH_CONFIRMED: leases_pb2.VERDICT_ACTION_FINISH_CONFIRMED,
}
_FINISH_VERDICTS: Final = {
    FinishVerdict.OK: leases_pb2.FINISH_VERDICT_OK,
    FinishVerdict.STALE_EPOCH: leases_pb2.FINISH_VERDICT_STALE_EPOCH,
    FinishVerdict.DUPLICATE: leases_pb2.FINISH_VERDICT_DUPLICATE,
}


@dataclass(frozen=True)
class Introduction:
    """A Hello that is well formed."""

    newcomer: Newcomer
    queues: tuple[str, ...]
    gpus: int
    inventory: list[InventoryEntry]


@dataclass
class Said:
    """What an agent said in one or more messages, ready to be carried out in one go.

    Attributes:
        report: About attempts.
        heartbeat: The newest one.
        drain: Whether it takes no more runs.
        unknown: Lease ids that the queue never made.
    """

    report: Report = field(default_factory=Report)
    heartbeat: leases_pb2.Heartbeat | None = None
    drain: bool = False
    unknown: set[str] = field(default_factory=set)


def read_hello(message: leases_pb2.StreamLeasesRequest) -> Introduction:
    """Read a stream's first message.

    Raises:
        InvalidArgument: It is no Hello, or a field of it is wrong; it names the field.
    """
    if not message.HasField("hello"):
        raise InvalidArgument.field("hello", "is missing; a stream begins with it")
    hello = message.hello
    agent = names.agent(hello.agent, "hello.agent")
    served = tuple(dict.fromkeys(names.queue(queue, "hello.queues") for queue in hello.queues))
    if not 1 <= len(served) <= _MOST_QUEUES:
        raise InvalidArgument.field("hello.queues", f"name 1 to {_MOST_QUEUES} queues, not {len(served)}")
    for name in ("instance_id", "boot_id"):
        if not getattr(hello, name):
            raise InvalidArgument.field(f"hello.{name}", "is empty; send an id")
    for name in ("instance_id", "boot_id", "hostname", "version"):
        if len(getattr(hello, name)) > _LONGEST_WORD:
            raise InvalidArgument.field(f"hello.{name}", f"is over {_LONGEST_WORD} characters; shorten it")
    if not 0 <= hello.capacity.slots <= _MOST_SLOTS:
        raise InvalidArgument.field("hello.capacity.slots", f"must be 0 to {_MOST_SLOTS}")
    gpus = [_gpu(gpu) for gpu in hello.gpus]
    if len({gpu.id for gpu in gpus}) != len(gpus) or len(gpus) > _MOST_GPUS:
        raise InvalidArgument.field("hello.gpus", f"give each GPU once, at most {_MOST_GPUS}")
    if len(hello.inventory) > _MOST_INVENTORY:
        raise InvalidArgument.field("hello.inventory", f"is over {_MOST_INVENTORY} entries")
    facts = {
        "hostname": _clean(hello.hostname),
        "version": _clean(hello.version),
        "queues": list(served),
        "capacity": hello.capacity.SerializeToString(),
        "gpus": [gpu.SerializeToString() for gpu in gpus],
        "labels": _labels(hello.labels),
    }
    newcomer = Newcomer(
        agent=agent,
        instance_id=_clean(hello.instance_id),
        boot_id=_clean(hello.boot_id),
        fresh=not hello.session_id,
        facts=facts,
        hello_seq=hello.hello_seq,
    )
    return Introduction(newcomer, served, len(gpus), inventory(hello.inventory))


def _gpu(gpu: leases_pb2.Gpu) -> leases_pb2.Gpu:
    # Ids travel joined by commas into the database, and become arguments of the container engine.
    if not 1 <= len(gpu.id) <= _LONGEST_WORD or "," in gpu.id or not gpu.id.isprintable():
        raise InvalidArgument.field("hello.gpus.id", f"{gpu.id!r} is no GPU UUID")
    return gpu


def _labels(labels: Mapping[str, str]) -> dict[str, str]:
    if len(labels) > _MOST_LABELS or any(
        len(word) > _LONGEST_WORD for pair in labels.items() for word in pair
    ):
        raise InvalidArgument.field(
            "hello.labels",
            f"give at most {_MOST_LABELS}, each key and value at most {_LONGEST_WORD} characters",
        )
    return {_clean(key): _clean(value) for key, value in labels.items()}


def inventory(entries: Iterable[leases_pb2.InventoryEntry]) -> list[InventoryEntry]:
    """Read an inventory; a state that an attempt cannot be in counts as LEASED."""
    return [
        InventoryEntry(
            lease_id=entry.lease_id,
            epoch=entry.epoch,
            key=parse_lease_id(entry.lease_id, entry.epoch),
            state=_PROGRESS.get(entry.state, State.LEASED),
        )
        for entry in entries
    ]


def read_messages(
    messages: Sequence[leases_pb2.StreamLeasesRequest], read_uuid: Callable[[str], UUID] = UUID
) -> Said:
    """Read messages that follow the first one.

    Args:
        messages: The messages, in order.
        read_uuid: Reads a UUID; ValueError if it is none.

    Raises:
        InvalidArgument: A field is wrong; it names the field.
    """
    said = Said()
    replies, progress = said.report.replies, said.report.progress
    for message in messages:
        if message.HasField("hello"):
            raise InvalidArgument.field("hello", "came twice; a stream has one, at its beginning")
        for reply in message.grant_replies:
            if key := _key(reply, said):
                accepted = reply.accepted
                replies.append(Reply(key, accepted, "" if accepted else _clean(reply.reason)))
        for event in message.run_events:
            state = _PROGRESS.get(event.state)
            if state is None:
                raise InvalidArgument.field("run_events.state", "must be PREPARING, RUNNING or STOPPING")
            if key := _key(event, said):
                progress.append(_progress(key, state, event))
        said.report.results.extend(read_finishes(message.finishes, read_uuid))
        for release in message.releases:
            if key := _key(release, said):
                said.report.returned.append(Returned(key, _clean(release.reason)))
        if message.HasField("heartbeat"):
            said.heartbeat = _keep_inventory(said.heartbeat, message.heartbeat)
        said.drain |= message.HasField("drain")
    return said


def _key(
    message: leases_pb2.GrantReply | leases_pb2.RunEvent | leases_pb2.Release, said: Said
) -> AttemptKey | None:
    key = parse_lease_id(message.lease_id, message.epoch)
    if key is None:
        said.unknown.add(message.lease_id)
    return key


def _keep_inventory(before: leases_pb2.Heartbeat | None, newer: leases_pb2.Heartbeat) -> leases_pb2.Heartbeat:
    """Take the newer of two heartbeats, but not without an inventory that only the older one has.

    The inventory does not speak for grants that came between the two.
    """
    if before is None or not before.has_inventory or newer.has_inventory:
        return newer
    merged = leases_pb2.Heartbeat()
    merged.CopyFrom(newer)
    merged.has_inventory = True
    merged.inventory.extend(before.inventory)
    merged.grant_seq_seen = before.grant_seq_seen
    return merged


def withheld(heartbeat: leases_pb2.Heartbeat) -> str:
    """Return why an agent takes no runs now, as it is kept."""
    return _clean(heartbeat.withheld)[:_LONGEST_REASON]


def _progress(key: AttemptKey, state: State, event: leases_pb2.RunEvent) -> Progress:
    return Progress(
        key,
        event.event_seq,
        state,
        _clean(event.detail),
        event.image_outcome,
        _clean(event.image_id),
        attempt_images.kept(event.image) if event.HasField("image") else None,
        _PASSED[state],
    )


def read_finishes(
    finishes: Iterable[leases_pb2.Finish], read_uuid: Callable[[str], UUID] = UUID
) -> list[Result]:
    """Read results; `read_uuid` as in `read_messages`.

    Raises:
        InvalidArgument: A finish_id is no UUID, or an outcome is none that an agent may report.
    """
    return [_result(finish, read_uuid) for finish in finishes]


def _result(finish: leases_pb2.Finish, read_uuid: Callable[[str], UUID]) -> Result:
    try:
        finish_id = read_uuid(finish.finish_id)
    except ValueError:
        raise InvalidArgument.field("finishes.finish_id", f"{finish.finish_id!r} is not a UUID") from None
    result = finish.result
    outcome = result.outcome
    state = _ENDS.get(outcome)
    if state is None:
        raise InvalidArgument.field("finishes.result.outcome", "must be SUCCEEDED, FAILED or CANCELLED")
    return Result(
        parse_lease_id(finish.lease_id, finish.epoch),
        finish_id,
        state,
        outcome,
        result.exit_code if result.HasField("exit_code") else None,
        None if state is State.SUCCEEDED else _failure(result),
        _clean(result.outputs),
        *(read_told(result) if result.summary_json or result.logged_artifacts else ()),
    )


def _failure(result: leases_pb2.AttemptResult) -> bytes:
    failure = runs_pb2.Failure()
    failure.CopyFrom(result.failure)
    if not result.HasField("failure"):
        failure.cause = runs_pb2.FAILURE_CAUSE_CONTROL_PLANE
        failure.message = "The agent gave no reason."
    failure.log_tail = failure.log_tail.encode()[-_LOG_TAIL:].decode(errors="ignore")
    return failure.SerializeToString()


def _clean(text: str) -> str:
    """Make text fit to store: PostgreSQL has no NUL characters, people read no novels."""
    return text and text.replace("\0", "\N{REPLACEMENT CHARACTER}")[:_LONGEST_TEXT]


def verdicts(pairs: Iterable[tuple[InventoryEntry, VerdictKind]]) -> list[leases_pb2.Verdict]:
    """Write the verdicts on an inventory."""
    return [
        leases_pb2.Verdict(lease_id=entry.lease_id, epoch=entry.epoch, action=_VERDICTS[verdict])
        for entry, verdict in pairs
    ]


def confirm(
    response: leases_pb2.StreamLeasesResponse | leases_pb2.FinishLeasesResponse,
    results: Iterable[tuple[UUID, FinishVerdict]],
) -> None:
    """Write the answers to results, in place: a message that is made first is copied into the response."""
    add = response.confirms.add
    for finish_id, verdict in results:
        add(finish_id=str(finish_id), verdict=_FINISH_VERDICTS[verdict])


def cancel(key: AttemptKey, stop: Stop) -> leases_pb2.Cancel:
    """Write the request to stop an attempt."""
    return leases_pb2.Cancel(
        lease_id=lease_id(key),
        epoch=key.epoch,
        grace=duration(stop.grace),
        reason=leases_pb2.StopReason.ValueType(stop.reason),
    )


def grants(leases: Iterable[tuple[Claimed, int]]) -> Iterator[leases_pb2.StreamLeasesResponse]:
    """Write new leases, each with its grant sequence, in messages well below the largest a channel takes."""
    response, size = leases_pb2.StreamLeasesResponse(), 0
    ttl, span = timedelta(0), Duration()
    for claimed, grant_seq in leases:
        grown = size + len(claimed.spec) + _GRANT_ROOM
        if size and grown > _GRANT_BYTES:
            yield response
            response, grown = leases_pb2.StreamLeasesResponse(), grown - size
        size = grown
        # Written in place: a part that is made first is copied into the grant, and that into the message.
        grant = response.grants.add(
            lease_id=lease_id(claimed.key),
            epoch=claimed.key.epoch,
            attempt=claimed.number,
            grant_seq=grant_seq,
        )
        if claimed.ttl != ttl:
            ttl = claimed.ttl
            span = duration(ttl)
        held = grant.ttl
        held.seconds, held.nanos = span.seconds, span.nanos
        if claimed.gpu_ids:
            grant.gpu_ids.extend(claimed.gpu_ids)
        grant.spec.MergeFromString(claimed.spec)
    if size:
        yield response


def go_away(reason: str, *, reconnect_after: timedelta, jitter: timedelta) -> leases_pb2.GoAway:
    """Write the last word of a session."""
    return leases_pb2.GoAway(
        reconnect_after=duration(reconnect_after), jitter=duration(jitter), reason=reason
    )


def duration(value: timedelta) -> Duration:
    """Write a time span."""
    message = Duration()
    message.FromTimedelta(value)
    return message
