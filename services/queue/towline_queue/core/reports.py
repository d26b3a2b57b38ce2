"""What agents report about attempts, and how several reports of one attempt become one change."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple
from uuid import UUID

from towline_queue.core.lease_ids import AttemptKey
from towline_queue.core.transitions import State

__all__ = [
    "FinishVerdict",
    "Progress",
    "Reply",
    "Report",
    "ReportAnswer",
    "Result",
    "Returned",
    "SaidBy",
    "fold_progress",
]


class FinishVerdict(Enum):
    """What became of a result, see towline.v1.FinishVerdict."""

    OK = "ok"
    STALE_EPOCH = "stale epoch"
    DUPLICATE = "duplicate"


class Reply(NamedTuple):
    """An agent takes a lease, or does not and says why."""

    key: AttemptKey
    accepted: bool
    reason: str = ""


class Progress(NamedTuple):
    """Where an attempt stands.

    Attributes:
        key: The attempt.
        event_seq: Rises within the attempt.
        state: PREPARING, RUNNING or STOPPING.
        detail: What it does now, for people.
        image_outcome: towline.v1.ImageOutcome; 0: not told.
        image_id: Content id of the image; empty: not told.
        image: towline.v1.AttemptImage, serialized: how it came about; None: not told.
        passed: States that reports folded into this one name: their times are set, as that of `state` is.
    """

    key: AttemptKey
    event_seq: int
    state: State
    detail: str = ""
    image_outcome: int = 0
    image_id: str = ""
    image: bytes | None = None
    passed: frozenset[State] = frozenset()


class Result(NamedTuple):
    """How an attempt ended.

    Attributes:
        key: The attempt; None: the queue never made such a lease.
        finish_id: The same for each repetition.
        state: SUCCEEDED, FAILED or CANCELLED.
        outcome: towline.v1.AttemptOutcome.
        exit_code: Of the container, if it ended.
        failure: towline.v1.Failure, serialized; None where it succeeded.
        outputs: "artifacts/{artifact}/versions/{version}", or empty.
        results: A towline.v1.AttemptResult, serialized: summary_json and logged_artifacts; None: neither.
        note: What is to be told to people besides.
    """

    key: AttemptKey | None
    finish_id: UUID
    state: State
    outcome: int
    exit_code: int | None = None
    failure: bytes | None = None
    outputs: str = ""
    results: bytes | None = None
    note: str = ""


class Returned(NamedTuple):
    """A lease given back before its container has started."""

    key: AttemptKey
    reason: str


@dataclass(frozen=True)
class Report:
    """What one session says in one go; carried out in the order of the fields."""

    replies: list[Reply] = field(default_factory=list)
    progress: list[Progress] = field(default_factory=list)
    results: list[Result] = field(default_factory=list)
    returned: list[Returned] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.replies or self.progress or self.results or self.returned)


@dataclass(frozen=True)
class SaidBy:
    """A report and the agent that made it."""

    agent: str
    report: Report


@dataclass(frozen=True)
class ReportAnswer:
    """What became of a report.

    Attributes:
        results: One verdict per result, in order.
        stale: Attempts of replies and progress that are no longer the agent's.
        ended: Attempts that are over: finished, rejected or given back.
    """

    results: list[tuple[UUID, FinishVerdict]]
    stale: set[AttemptKey]
    ended: set[AttemptKey]


def fold_progress(reports: Iterable[Progress]) -> list[Progress]:
    """Make one change per attempt of several reports: the newest counts, states only go forward."""
    reports = list(reports)
    if len({report.key for report in reports}) == len(reports):
        return reports
    folded: dict[AttemptKey, Progress] = {}
    for report in reports:
        before = folded.setdefault(report.key, report)
        if report.event_seq > before.event_seq:
            folded[report.key] = report._replace(
                state=max(before.state, report.state),
                image_outcome=report.image_outcome or before.image_outcome,
                image_id=report.image_id or before.image_id,
                image=report.image or before.image,
                passed=before.passed | report.passed | {before.state, report.state},
            )
    return list(folded.values())
