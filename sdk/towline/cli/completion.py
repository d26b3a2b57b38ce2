"""Names for the shell's completion: asked from the services, but never waited for."""

import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from towline.client import Client

__all__ = ["PRIORITIES", "agents", "jobs", "priorities", "queues", "runs"]

PRIORITIES: Final = ("critical", "high", "medium", "low")

# A person has pressed TAB and watches the cursor.
_DEADLINE_S: Final = 1.0
_MOST: Final = 50


def priorities(incomplete: str) -> list[str]:
    """Complete a priority."""
    return [word for word in PRIORITIES if word.startswith(incomplete)]


def queues(incomplete: str) -> list[str]:
    """Complete the name of a queue."""
    return _matching(incomplete, lambda client: (queue.name for queue in client.queues.list()))


def jobs(incomplete: str) -> list[str]:
    """Complete the name of a job, or after a colon its versions and aliases."""
    job, colon, _ = incomplete.partition(":")
    if not colon:
        return _matching(incomplete, lambda client: (item.name for item in client.jobs.list()))

    def versions(client: "Client") -> Iterator[str]:
        for version in client.jobs.versions(job):
            yield version.name
            yield from (f"jobs/{job}/versions/{alias}" for alias in version.aliases)

    return _matching(incomplete, versions)


def runs(incomplete: str) -> list[str]:
    """Complete the id of a run; the newest ones only."""
    return _matching(incomplete, lambda client: (run.name for run in client.runs.list()))


def agents(incomplete: str) -> list[str]:
    """Complete the name of an agent."""
    return _matching(incomplete, lambda client: (agent.name for agent in client.fleet.list()))


def _matching(incomplete: str, fetch: "Callable[[Client], Iterable[str]]") -> list[str]:
    from towline.client import Client
    from towline.errors import TowlineError
    from towline.names import short

    found: list[str] = []
    try:
        with _deadline(), Client() as client:
            for number, name in enumerate(fetch(client)):
                if short(name).startswith(incomplete):
                    found.append(short(name))
                if number >= _MOST * 20 or len(found) >= _MOST:
                    break
    except (TowlineError, TimeoutError):
        pass  # nothing to suggest: TAB is no place for errors
    return found


@contextmanager
def _deadline() -> Iterator[None]:
    """Raise TimeoutError in the block when its time is over."""

    def expire(_number: int, _frame: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, _DEADLINE_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
