"""New runs in PostgreSQL: those of many requests in one statement."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from itertools import accumulate, groupby, repeat

import orjson

from towline.names import QueueName
from towline.service.postgres import RequestKey
from towline_queue.core.kinds import Kind, taken_apart
from towline_queue.core.submission import NewRun
from towline_queue.storage.database import Database, Transaction
from towline_queue.storage.launch_specs import KnownSpecs
from towline_queue.storage.queues import spec_digest

__all__ = ["NewKind", "NewRuns", "Outcome", "QueueVersion", "queue_versions", "single", "store"]


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
    spans = [span for request in requests for span in _spans(request)]
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
        span_ends=",".join(end for end, _ in spans),
        span_sizes=_array(size for _, size in spans),
        starts=_array(accumulate(lengths[:-1], initial=0)),
        lengths=_array(lengths),
        run_kinds=_array(
            offset + kind
            for offset, request in zip(offsets, requests, strict=True)
            for kind in request.run_kinds
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


def _spans(request: NewRuns) -> Iterator[tuple[str, int]]:
    """Give `span_end` (empty: null) and `span_size` of each run."""
    listed_by = [(new.kind.queue, new.kind.job_version) for new in request.kinds]
    end = 0
    for _, runs in groupby(request.run_kinds, lambda number: listed_by[number - 1]):
        size = sum(1 for _ in runs)
        end += size
        yield request.names[end - 1] if size > 1 else "", size
        yield from repeat(("", 0), size - 1)
