"""Names for the shell's completion: asked from the services, but never waited for."""

import signal
from contextlib import closing, contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from towline.client import Client
    from towline.v1 import artifacts_pb2, jobs_pb2

__all__ = ["PRIORITIES", "agents", "artifacts", "jobs", "priorities", "queues", "runs"]

PRIORITIES: Final = ("critical", "high", "medium", "low")

# A person has pressed TAB and watches the cursor.
_DEADLINE_S: Final = 1.0
_MOST: Final = 1000

_Resource = TypeVar("_Resource")


class _Named(Protocol):
    name: str


def priorities(incomplete: str) -> list[str]:
    """Complete a priority."""
    return [word for word in PRIORITIES if word.startswith(incomplete)]


def queues(incomplete: str) -> list[str]:
    """Complete the name of a queue."""
    return _matching(incomplete, lambda client: client.queues.list(), _own_name)


def jobs(incomplete: str) -> list[str]:
    """Complete the name of a job, or after a colon its versions and aliases."""
    job, colon, _ = incomplete.partition(":")
    if not colon:
        return _matching(incomplete, lambda client: client.jobs.list(), _own_name)
    return _matching(incomplete, lambda client: client.jobs.versions(job), _version_and_aliases)


def artifacts(incomplete: str) -> list[str]:
    """Complete the name of an artifact, or after a colon its versions and aliases."""
    artifact, colon, _ = incomplete.partition(":")
    if not colon:
        return _matching(incomplete, lambda client: client.artifacts.list(), _own_name)
    return _matching(incomplete, lambda client: client.artifacts.versions(artifact), _version_and_aliases)


def runs(incomplete: str) -> list[str]:
    """Complete the id of a run; the newest ones only."""
    return _matching(incomplete, lambda client: client.runs.list(), _own_name)


def agents(incomplete: str) -> list[str]:
    """Complete the name of an agent."""
    return _matching(incomplete, lambda client: client.fleet.list(), _own_name)


def _own_name(resource: "_Named") -> list[str]:
    return [resource.name]


def _version_and_aliases(version: "jobs_pb2.JobVersion | artifacts_pb2.ArtifactVersion") -> list[str]:
    parent = version.name.rpartition("/")[0]
    return [version.name, *(f"{parent}/{alias}" for alias in version.aliases)]


def _matching(
    incomplete: str,
    fetch: "Callable[[Client], Generator[_Resource, None, None]]",
    names_of: "Callable[[_Resource], list[str]]",
) -> list[str]:
    from towline.client import Client
    from towline.errors import TowlineError
    from towline.names import short

    found: list[str] = []
    try:
        with _deadline(), Client() as client, closing(fetch(client)) as resources:
            for resource in islice(resources, _MOST):
                words = map(short, names_of(resource))
                found += [word for word in words if word.startswith(incomplete)]
    except (TowlineError, TimeoutError):
        pass  # nothing to suggest: TAB is no place for errors
    return found


@contextmanager
def _deadline() -> "Iterator[None]":
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
