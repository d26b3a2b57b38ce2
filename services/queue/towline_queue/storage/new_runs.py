"""New runs in PostgreSQL: those of many requests in one statement."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from itertools import accumulate, groupby
from typing import TypeVar

import orjson

from towline.names import QueueName
from towline.service.postgres import RequestKey
from towline_queue.core.kinds import Kind, taken_apart
from towline_queue.core.submission import NewRun
from towline_queue.storage.database import Database, Transaction
from towline_queue.storage.launch_specs import KnownSpecs
from towline_queue.storage.queues import spec_digest
from towline_queue.storage.tables import MAX_WAITING

__all__ = ["NewKind", "NewRuns", "Outcome", "QueueVersion", "queue_versions", "single", "store"]

_T = TypeVar("_T")


@dataclass(frozen=True)
class QueueVersion:
    """A queue as it was at some moment: its serialized QueueSpec, and what tells it from later ones."""

    spec: bytes
    revision: int
    create_time: datetime


@dataclass(frozen=True)
class NewKind:
    """A kind of runs to be stored.

    Attributes:
        kind: What they have in common.
        queue: What they were checked by, which must not have changed; None: their queue must only be there.
        due: When they may start, if that is not yet.
    """

    kind: Kind
    queue: QueueVersion | None
    due: datetime | None


@dataclass(frozen=True)
class NewRuns:
    """The runs of one request, to be stored in this order, all or none.

    Attributes:
        key: What tells a repetition of the request; None: there can be none.
        response: The answer that a repetition gets.
        kinds: Their kinds.
        names: Of the runs, ascending; no other name lies between them.
        own_specs: Of the runs; see `Recipe.own_fields`.
        run_kinds: Of the runs, 1 for the first of `kinds`.
    """

    key: RequestKey | None
    response: bytes
    kinds: Sequence[NewKind]
    names: Sequence[str]
    own_specs: Sequence[bytes]
    run_kinds: Sequence[int]

    @property
    def lone(self) -> bool:
        """Whether it is one run, checked and remembered, that may start at once."""
        if len(self.names) > 1 or self.key is None:
            return False
        (new,) = self.kinds
        return new.queue is not None and new.due is None


class Outcome(Enum):
    """What became of a request."""

    STORED = "stored"
    STALE = "stale"
    """Nothing was stored: a queue is gone or has another spec."""
    REPEATED = "repeated"
    """Nothing was stored: a request with its id was, and is remembered."""


async def queue_versions(
    database: Database, names: Collection[QueueName]
) -> Mapping[QueueName, QueueVersion]:
    """Return those of the queues that are there."""
    return {
        row["name"]: QueueVersion(row["spec"], row["revision"], row["create_time"])
        for row in await database.rows("queue_specs", names=list(names))
    }


def single(new: NewRun, key: RequestKey | None = None, response: bytes = b"") -> NewRuns:
    """Make a request of one whole run, whose queue must be there."""
    kind, own_spec = taken_apart(new)
    return NewRuns(key, response, [NewKind(kind, None, new.due)], [new.spec.run], [own_spec], [1])


async def store(
    database: Database | Transaction, requests: Sequence[NewRuns], known: KnownSpecs | None = None
) -> list[Outcome]:
    """Store the runs of each request or nothing of it, and return what became of each.

    Args:
        database: Where to; a transaction to be committed with what else is in it.
        requests: No two with the same key.
        known: Launch specs that are there, added to after the commit; None: not known.
    """
    kinds = [(number, new) for number, request in enumerate(requests, 1) for new in request.kinds]
    specs = (known or KnownSpecs()).missing(new.kind for _, new in kinds)
    offsets: list[int] = []
    count = 0
    for request in requests:
        offsets.append(count)
        count += len(request.kinds)
    own_specs = [spec for request in requests for spec in request.own_specs]
    lengths = [len(spec) for spec in own_specs]
    span_sizes, span_ends, waiting_sizes = _spans(requests)
    rows = await database.rows(
        "insert_runs",
        methods=[request.key and request.key.method for request in requests],
        request_ids=[request.key and request.key.id for request in requests],
        request_digests=[request.key and request.key.digest for request in requests],
        responses=[request.response for request in requests],
        requests=[number for number, _ in kinds],
        queues=[new.kind.queue for _, new in kinds],
        queue_revisions=[new.queue and new.queue.revision for _, new in kinds],
        queue_times=[new.queue and new.queue.create_time for _, new in kinds],
        priorities=[new.kind.priority for _, new in kinds],
        shapes=[new.kind.shape for _, new in kinds],
        job_versions=[new.kind.job_version for _, new in kinds],
        authors=[new.kind.author for _, new in kinds],
        labels=[new.kind.labels_json for _, new in kinds],
        variables=[new.kind.variables_json for _, new in kinds],
        launch_specs=[new.kind.digest for _, new in kinds],
        retries_of=[new.kind.retry_of for _, new in kinds],
        due_times=[new.due for _, new in kinds],
        max_waits=[new.kind.max_wait for _, new in kinds],
        digests=[kind.digest for kind in specs],
        specs=[kind.spec for kind in specs],
        queue_specs=[spec_digest(kind.queue_spec) for kind in specs],
        spec_max_waits=[kind.max_wait for kind in specs],
        retry_policies=[kind.retry_policy for kind in specs],
        names=",".join(name for request in requests for name in request.names),
        own_specs=b"".join(own_specs),
        span_ends=",".join(span_ends),
        span_sizes=_array(span_sizes),
        starts=_array(accumulate(lengths[:-1], initial=0)),
        lengths=_array(lengths),
        waiting_sizes=_array(waiting_sizes),
        run_kinds=_array(
            offset + kind
            for offset, request in zip(offsets, requests, strict=True)
            for kind in request.run_kinds
            if len(kinds) > 1
        ),
    )
    if known is not None and isinstance(database, Database):
        known.committed(specs)
    outcomes = [Outcome.REPEATED] * len(requests)
    for row in rows:
        outcomes[row["number"] - 1] = Outcome.STALE if row["stale"] else Outcome.STORED
    return outcomes


def _array(numbers: Iterable[int]) -> str:
    """Write an array of numbers as text, which is far quicker than having asyncpg look at each."""
    return f"{{{orjson.dumps(list(numbers))[1:-1].decode()}}}"


def _spans(requests: Sequence[NewRuns]) -> tuple[list[int], list[str], list[int]]:
    """Return `span_sizes`, `span_ends` and `waiting_sizes` of insert_runs.sql."""
    sizes: list[int] = []
    ends: list[str] = []
    waiting: list[int] = []
    first = 0
    for request in requests:
        listed_by: tuple[str, str] | None = None
        place = 0
        for number, count in _groups(request):
            kind = request.kinds[number - 1].kind
            if (kind.queue, kind.job_version) != listed_by:
                listed_by = kind.queue, kind.job_version
                _set(sizes, first + place, 0, 0)
                _set(ends, first + place, "", "")
            place += count
            sizes[-1] += count
            if sizes[-1] > 1:
                ends[-1] = request.names[place - 1]
            for start in range(place - count, place, MAX_WAITING):
                _set(waiting, first + start, min(MAX_WAITING, place - start), 0)
        first += place
    return sizes, ends, waiting


def _groups(request: NewRuns) -> Iterator[tuple[int, int]]:
    """Give the kinds of runs that come after each other, each with how many they are."""
    if len(request.kinds) == 1:
        yield 1, len(request.names)
        return
    for number, alike in groupby(request.run_kinds):
        yield number, sum(1 for _ in alike)


def _set(values: list[_T], place: int, value: _T, other: _T) -> None:
    """Make a list longer, so that its last place is this one; those passed over get the other value."""
    values += [other] * (place - len(values))
    values.append(value)
