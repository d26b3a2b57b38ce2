"""Which runs `run list` and `run cancel` are about."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from towline.cli import enums, values
from towline.v1 import runs_pb2

if TYPE_CHECKING:
    from towline.client import Client

__all__ = ["Selection"]

UNREACHABLE: Final = "unreachable"
"""Shown like a state: an agent holds the run, and is silent."""

_HELD: Final = (
    runs_pb2.RUN_STATE_LEASED,
    runs_pb2.RUN_STATE_PREPARING,
    runs_pb2.RUN_STATE_RUNNING,
    runs_pb2.RUN_STATE_STOPPING,
)


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
        said = self._own_states()
        if len(said) < len(self.states):
            said += [state for state in _HELD if state not in said]
        return runs_pb2.RunFilter(
            queue=self.queue or "",
            job=self.job or "",
            states=said or states,
            author=self.author or "",
            labels=values.pairs(self.labels, "--label"),
        )

    def has(self, run: runs_pb2.Run) -> bool:
        """Whether a run that the filter found is meant: the service's filter knows no UNREACHABLE."""
        said = self._own_states()
        return len(said) == len(self.states) or run.state in said or run.unreachable

    def _own_states(self) -> list[Any]:
        return [
            enums.parse(runs_pb2.RunState, "RUN_STATE_", word, "--state")
            for word in self.states
            if word.lower() != UNREACHABLE
        ]

    def check_names(self, client: "Client") -> None:
        """Check that queue and job exist: for where nothing was found, which a wrong name looks like.

        Raises:
            NotFound: One does not.
        """
        if self.queue:
            client.queues.get(self.queue)
        if self.job:
            client.jobs.get(self.job)
