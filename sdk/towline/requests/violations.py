"""What is wrong with a request, gathered: people get everything at once, not one thing at a time."""

from typing import Final

from towline.errors import InvalidArgument

__all__ = ["Violations"]

# An error travels in HTTP/2 trailers, which peers bound at 8 KiB with the message in it twice.
_MAX_CHARS: Final = 2000
_MAX_EACH: Final = 300


class Violations:
    """Paths and what is wrong there.

    Args:
        reason: ErrorInfo.reason of the error that they become.
    """

    def __init__(self, reason: str) -> None:
        self._reason = reason
        self._by_path: dict[str, str] = {}

    def __bool__(self) -> bool:
        return bool(self._by_path)

    def add(self, path: str, problem: str) -> None:
        """Add a violation; the first few of one path are told together."""
        if len(problem) > _MAX_EACH:
            problem = f"{problem[: _MAX_EACH - 1]}…"
        before = self._by_path.get(path, "")
        if problem not in before and len(before) <= _MAX_EACH:
            self._by_path[path] = f"{before}, and {problem}" if before else problem

    def items(self) -> list[tuple[str, str]]:
        """Return (path, problem) in the order they were found."""
        return list(self._by_path.items())

    def check(self, prefix: str = "") -> None:
        """Raise what was found, if anything.

        Args:
            prefix: Where in the request the paths begin, such as "runs[3]."; put before each of them.

        Raises:
            InvalidArgument: With all violations, or as many as a gRPC error carries, in message and metadata.
        """
        if not self._by_path:
            return
        shown: dict[str, str] = {}
        room = _MAX_CHARS
        for path, problem in self._by_path.items():
            room -= len(path.encode()) + len(problem.encode())
            if room < 0 and shown:
                break
            shown[f"{prefix}{path}"] = problem
        message = "; ".join(f"{path}: {problem}" for path, problem in shown.items())
        if hidden := len(self._by_path) - len(shown):
            message += f"; and {hidden} more"
        raise InvalidArgument(message, reason=self._reason, metadata=shown)
