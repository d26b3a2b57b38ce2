"""What is wrong with a specification, gathered from checks that each stop at the first thing they find."""

from collections.abc import Iterator
from contextlib import contextmanager

from towline.errors import InvalidArgument
from towline.requests.violations import Violations

__all__ = ["Findings"]


class Findings:
    """Paths in a request and what is wrong there."""

    def __init__(self) -> None:
        self._violations = Violations("INVALID_SPEC")

    def add(self, path: str, problem: str) -> None:
        """Add what is wrong with a field."""
        self._violations.add(path, problem)

    @contextmanager
    def gathering(self) -> Iterator[None]:
        """Go on after the block where that found a field to be wrong."""
        try:
            yield
        except InvalidArgument as error:
            field = error.metadata.get("field", "")
            self.add(field, error.message.removeprefix(f"{field}: "))

    def check(self) -> None:
        """Raise what was found.

        Raises:
            InvalidArgument: One thing is wrong (INVALID_FIELD), or several are (INVALID_SPEC); the metadata
                of the latter has an entry for each, path → problem.
        """
        match self._violations.items():
            case [(path, problem)]:
                raise InvalidArgument.field(path, problem)
            case _:
                self._violations.check()
