"""What an import from W&B tells people, and how it says what is wrong."""

from dataclasses import dataclass, field
from typing import NamedTuple

from towline.errors import InvalidArgument

__all__ = ["Note", "Notes", "wrong"]


class Note(NamedTuple):
    """One line for people."""

    place: str
    """File or field it is about, such as "source.entrypoint"."""
    text: str


@dataclass
class Notes:
    """What became of what W&B wrote."""

    repaired: list[Note] = field(default_factory=list)
    """What was read otherwise than it is written."""
    left_out: list[Note] = field(default_factory=list)
    """What could not be carried over, and why."""

    def repair(self, place: str, text: str) -> None:
        """Note that something is read otherwise than it is written."""
        self.repaired.append(Note(place, text))

    def leave_out(self, place: str, text: str) -> None:
        """Note that something is not carried over; `text` says why."""
        self.left_out.append(Note(place, text))


def wrong(file: str, place: str, problem: str) -> InvalidArgument:
    """Say what is wrong with a field of a file; `problem` names the remedy."""
    where = f"{file}: {place}" if place else file
    return InvalidArgument(
        f"{where}: {problem}", reason="INVALID_FIELD", metadata={"file": file, "field": place}
    )
