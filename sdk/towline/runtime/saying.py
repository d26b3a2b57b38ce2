"""Lines for people, on standard error."""

import sys

__all__ = ["say"]


def say(line: str) -> None:
    """Tell people one thing, in one line; where nobody listens, nothing happens."""
    try:
        print(f"towline: {' '.join(line.split())}", file=sys.stderr, flush=True)  # noqa: T201 - for people
    except (OSError, ValueError, AttributeError):  # stderr closed, or None
        return
