"""Makes runs of what a request asks for, without holding up what else the process does."""

import asyncio
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import groupby
from typing import TYPE_CHECKING, Final

from google.protobuf.message import Message

from towline.errors import InvalidArgument
from towline.names import QueueName, RunName
from towline.service.postgres import RequestKey
from towline.v1 import runs_pb2
from towline_queue.core.run_ids import BLOCK_BITS, RANDOM_BITS, run_names
from towline_queue.core.submission import check, check_display_name
from towline_queue.recipes import AskedKind, Recipes
from towline_queue.storage.new_runs import NewKind, NewRuns

if TYPE_CHECKING:
    from towline_queue.core.kinds import Recipe

__all__ = ["Asked", "make_runs", "new_names", "take_apart"]

# Other calls wait no longer than this while the runs of one are made.
_SLICE_S: Final = 0.001
_SLICE_RUNS: Final = 64
# Parameters of this size, in characters, take longer than that by themselves.
_LARGE: Final = 64 * 1024


@dataclass(frozen=True)
class Asked:
    """A request, taken apart.

    Attributes:
        key: What tells its repetitions; None: nothing does.
        answer: Makes its answer of the names of its runs.
        many: Whether it is one for many runs, which are named in errors as "runs[i]".
        kinds: The kinds of runs in it, in the order of their first ones.
        numbers: The kind of each run, by its place among these.
        configs: The parameters of each run, as given.
        display_names: The display name of each run, as given.
    """

    key: RequestKey | None
    answer: Callable[[Sequence[str]], Message]
    many: bool
    kinds: list[AskedKind] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    configs: list[str] = field(default_factory=list)
    display_names: list[str] = field(default_factory=list)

    @property
    def queues(self) -> set[QueueName]:
        """Where the runs are to wait."""
        return {kind.submission.queue for kind in self.kinds}

    def prefix(self, index: int) -> str:
        """Return what stands before the paths of a run's fields in an error."""
        return f"runs[{index}]." if self.many else ""


def take_apart(asked: Asked, submissions: Iterable[runs_pb2.RunSubmission]) -> Asked:
    """Put the runs of a request into `asked`, taking what is their own out of their submissions.

    Raises:
        InvalidArgument: The form of the first of them that is wrong; it names the field.
    """
    kinds, numbers, configs, display_names = asked.kinds, asked.numbers, asked.configs, asked.display_names
    known: dict[bytes, int] = {}
    number = 0
    before: runs_pb2.RunSubmission | None = None
    for index, submission in enumerate(submissions):
        configs.append(submission.config_json)
        submission.config_json = ""
        if display_name := submission.display_name:
            check_display_name(display_name, f"runs[{index}]" if asked.many else "run")
            submission.display_name = ""
        display_names.append(display_name)
        # To compare two is less than half of writing one down.
        if submission != before:
            text = submission.SerializePartialToString(deterministic=True)
            number = known.setdefault(text, len(kinds))
            if number == len(kinds):
                checked = check(submission, f"runs[{index}]" if asked.many else "run")
                kinds.append(AskedKind(text, checked, asked.prefix(index)))
            before = submission
        numbers.append(number)
    return asked


async def make_runs(asked: Asked, recipes: Recipes) -> NewRuns:
    """Make the runs that a request asks for; see Recipes.find and Recipe for the errors."""
    found = await recipes.find(asked.kinds)
    names, now = new_names(len(asked.numbers))
    made: list[Recipe] = []  # of the kinds met so far; they come in this order
    own_specs: list[bytes] = []
    clock = asyncio.get_running_loop().time
    began = clock()
    for number, slice_ in _slices(asked.numbers):
        if clock() - began > _SLICE_S:
            await asyncio.sleep(0)
            began = clock()
        if number == len(made):
            made.append(recipes.recipe(asked.kinds[number], found[number]))
        make = made[number].own_fields
        own = names[slice_], asked.configs[slice_], asked.display_names[slice_]
        try:
            large = sum(map(len, own[1])) > _LARGE
            own_specs += await asyncio.to_thread(make, *own) if large else make(*own)
        except InvalidArgument:
            # Once more, one by one, with paths, which are written for no run that is right.
            for index in range(slice_.start, slice_.stop):
                name, config, title = names[index], asked.configs[index], asked.display_names[index]
                await asyncio.to_thread(make, [name], [config], [title], asked.prefix(index))
            raise
    return NewRuns(
        key=asked.key,
        response=asked.answer(names).SerializeToString(deterministic=True),
        kinds=[
            NewKind(recipe.kind, place.queue, _due(kind, now))
            for kind, place, recipe in zip(asked.kinds, found, made, strict=True)
        ],
        names=names,
        own_specs=own_specs,
        run_kinds=[number + 1 for number in asked.numbers],
    )


def _slices(numbers: Sequence[int]) -> Iterator[tuple[int, slice]]:
    """Give runs of one kind that come after each other, by the kind and where they stand: few at a time."""
    end = 0
    for number, alike in groupby(numbers):
        start, end = end, end + sum(1 for _ in alike)
        for first in range(start, end, _SLICE_RUNS):
            yield number, slice(first, min(first + _SLICE_RUNS, end))


def new_names(count: int) -> tuple[list[RunName], datetime]:
    """Return as many new names of runs, ascending, and the time that is in them.

    Those of many runs are the first ones of a block in the upper half of all blocks; that of one alone is in
    the lower half. So no other name lies between them, for other such runs would begin with the same name.
    """
    first = secrets.randbits(RANDOM_BITS - 1)
    if count > 1:
        first = first & -(1 << BLOCK_BITS) | 1 << (RANDOM_BITS - 1)
    now = datetime.now(UTC)
    return run_names(int(now.timestamp() * 1000), range(first, first + count)), now


def _due(kind: AskedKind, now: datetime) -> datetime | None:
    time = kind.submission.not_before
    return time if time and time > now else None
