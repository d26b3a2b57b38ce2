"""States, moments and durations as people read them. Pure: the present moment is an argument."""

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from towline import durations
from towline.v1 import runs_pb2

__all__ = [
    "Phases",
    "ago",
    "cause",
    "duration",
    "files",
    "limits",
    "lower",
    "moment",
    "own_state",
    "phases",
    "retries",
    "size",
    "state",
    "state_style",
    "when",
]

_STYLES: Final = {
    runs_pb2.RUN_STATE_SUCCEEDED: "green",
    runs_pb2.RUN_STATE_FAILED: "bold red",
    runs_pb2.RUN_STATE_CANCELLED: "yellow",
    runs_pb2.RUN_STATE_RUNNING: "cyan",
}


def lower(name: str, prefix: str) -> str:
    """Write the name of an enum's value as a word: "queued" for "RUN_STATE_QUEUED"."""
    return name.removeprefix(prefix).lower()


def state(run: runs_pb2.Run) -> str:
    """Write where a run stands, in one or two words."""
    word = "unreachable" if run.unreachable else own_state(run)
    if run.HasField("end_time"):
        return word
    if run.cancel_requested:
        return f"{word}, cancel asked"
    return f"{word}, preempting" if run.preempt_requested else word


def own_state(run: runs_pb2.Run) -> str:
    """Write the state that a run was last known to be in."""
    return lower(runs_pb2.RunState.Name(run.state), "RUN_STATE_")


def state_style(run: runs_pb2.Run) -> str:
    """Give the style of a run's state."""
    return "bold yellow" if run.unreachable else _STYLES.get(run.state, "")


def cause(failure: runs_pb2.Failure) -> str:
    """Write the class of a failure: "user error"; "" of none."""
    return _cause(failure.cause) if failure.cause else ""


def _cause(value: "runs_pb2.FailureCause.ValueType") -> str:
    return lower(runs_pb2.FailureCause.Name(value), "FAILURE_CAUSE_").replace("_", " ")


def limits(limits: runs_pb2.TimeLimits) -> str:
    """Write the time limits that are set: "runs 2h at most, waits 30m at most"."""
    parts = [
        f"{does} {durations.written(limit.ToTimedelta())} at most"
        for does, limit in (("runs", limits.max_runtime), ("waits", limits.max_wait))
        if limit.ByteSize()
    ]
    return ", ".join(parts)


def retries(run: runs_pb2.Run) -> str:
    """Write how often a run may be tried again, and was: "user error 1 of 3, oom 0 of 1"."""
    used = Counter(attempt.failure.cause for attempt in _followed(run))
    return ", ".join(
        f"{_cause(budget.cause)} {used[budget.cause]} of {budget.max_retries}"
        for budget in run.retry_policy.budgets
        if budget.max_retries
    )


def _followed(run: runs_pb2.Run) -> Sequence[runs_pb2.Attempt]:
    """Give the attempts that another one follows: all but one that still goes on, or was the end."""
    last_counts = not run.HasField("end_time") and bool(run.attempts) and bool(run.attempts[-1].outcome)
    return run.attempts if last_counts else run.attempts[:-1]


def when(stamp: Timestamp) -> datetime:
    """Give a moment as local time."""
    return stamp.ToDatetime(UTC).astimezone()


def moment(stamp: Timestamp) -> str:
    """Write a moment in local time, to the second."""
    return f"{when(stamp):%Y-%m-%d %H:%M:%S}"


def duration(span: timedelta) -> str:
    """Write a duration: "0.4 s", "2 m 05 s", "3 h 10 m", "2 d 04 h"."""
    seconds = max(span.total_seconds(), 0.0)
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = int(seconds)
    if whole < 3600:
        return f"{whole // 60} m {whole % 60:02} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02} m"
    return f"{whole // 86400} d {whole % 86400 // 3600:02} h"


def ago(stamp: Timestamp, now: datetime) -> str:
    """Write how long ago a moment was."""
    return duration(now - when(stamp))


def files(count: int, size_bytes: int) -> str:
    """Write how many files there are, and their size: "3 files, 1.5 MiB"."""
    return f"{'1 file' if count == 1 else f'{count:,} files'}, {size(size_bytes)}"


def size(count: int) -> str:
    """Write a number of bytes: "512 B", "1.5 MiB"."""
    amount = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{count} B" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"


class Phases:
    """How long one attempt took for what.

    Args:
        waited_from: When the run began to wait for this attempt.
        times: The attempt's moments.
        now: Stands in for a moment that has not come.
    """

    def __init__(self, waited_from: datetime, times: runs_pb2.AttemptTimes, now: datetime) -> None:
        lease = when(times.lease_time)
        end = when(times.end_time) if times.HasField("end_time") else now
        start = when(times.start_time) if times.HasField("start_time") else None
        image = when(times.image_time) if times.HasField("image_time") else None
        self.queued = lease - waited_from
        self.image = image - lease if image else None
        self.starting = (start or end) - (image or lease)
        self.starts = start is not None or not times.HasField("end_time")
        """Whether a container was started, or is yet to be."""
        self.running = end - start if start else None
        self.silent = (
            when(times.first_output_time) - start if start and times.HasField("first_output_time") else None
        )
        """From the start of the container to the first that it printed."""
        self.end = end

    def __str__(self) -> str:
        parts = [f"queued {duration(self.queued)}"]
        if self.image is None:
            parts.append(f"preparing {duration(self.starting)}")
        else:
            parts.append(f"image {duration(self.image)}")
            if self.starts:
                parts.append(f"starting {duration(self.starting)}")
        if self.silent is not None:
            parts.append(f"first output after {duration(self.silent)}")
        if self.running is not None:
            parts.append(f"running {duration(self.running)}")
        return ", ".join(parts)


def phases(run: runs_pb2.Run, now: datetime) -> list[Phases]:
    """Give the phases of each attempt of a run, oldest first."""
    found: list[Phases] = []
    waited_from = when(run.create_time)
    for attempt in run.attempts:
        found.append(Phases(waited_from, attempt.times, now))
        waited_from = found[-1].end
    return found
