"""Which runs `run list` and `run cancel` are about."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from towline.cli import enums, values
from towline.v1 import runs_pb2

if TYPE_CHECKING:
    from towline.client import Client

__all__ = ["Selection"]


@dataclass(frozen=True)
class Selection:
    """What people may say of the runs they mean; what is left empty selects all."""

    queue: str | None = None
    job: str | None = None
    states: Sequence[str] = ()
    author: str | None = None
    labels: Sequence[str] = ()

    @property
    def empty(self) -> bool:
        """Whether nothing is said."""
        return self == Selection()

    def filter(self, states: "Sequence[runs_pb2.RunState.ValueType]" = ()) -> runs_pb2.RunFilter:
        """Make the filter; `states` where no state is said.

        Raises:
            InvalidArgument: A state or label cannot be read; the message names the option.
        """
        said: list[Any] = [
            enums.parse(runs_pb2.RunState, "RUN_STATE_", word, "--state") for word in self.states
        ]
        return runs_pb2.RunFilter(
            queue=self.queue or "",
            job=self.job or "",
            states=said or states,
            author=self.author or "",
            labels=values.pairs(self.labels, "--label"),
        )

    def check_names(self, client: "Client") -> None:
        """Check that queue and job exist: for where nothing was found, which a wrong name looks like.

        Raises:
            NotFound: One does not.
        """
        if self.queue:
            client.queues.get(self.queue)
        if self.job:
            client.jobs.get(self.job)
