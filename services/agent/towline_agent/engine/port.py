"""What the agent needs of a container engine.

Errors, for every method: Unavailable/ENGINE_UNAVAILABLE (it does not answer; nobody knows what
became of the request), NotFound/CONTAINER_NOT_FOUND, NotFound/IMAGE_NOT_FOUND,
AlreadyExists/CONTAINER_EXISTS, InvalidArgument/ENGINE_REFUSED (it answered that it cannot do what
was asked; the message is the engine's), Internal/ENGINE_FAILED.
"""

from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, NewType, Protocol

from towline_agent.core.containers import ImageFacts
from towline_agent.core.failures import ExitStatus, SentSignal
from towline_agent.core.transfers import Transfer
from towline_agent.engine.build_port import BuildEngine

__all__ = ["Container", "ContainerId", "ContainerState", "Engine", "Image", "Volume"]

ContainerId = NewType("ContainerId", str)


class ContainerState(Enum):
    """How far a container is."""

    CREATED = "created"
    RUNNING = "running"
    ENDED = "ended"


@dataclass(frozen=True)
class Container:
    """A container as the engine tells."""

    id: ContainerId
    state: ContainerState
    labels: Mapping[str, str]
    exit: ExitStatus | None
    """Set when it has ended."""
    name: str = ""
    """Its name."""
    started_at: float | None = None
    """When it was started last, seconds since the epoch by the engine's clock; None: never."""
    finished_at: float | None = None
    """When it ended, likewise; None: it has not."""


@dataclass(frozen=True)
class Volume:
    """A volume as the engine tells."""

    name: str
    labels: Mapping[str, str]


@dataclass(frozen=True)
class Image:
    """An image on the node as the engine lists it."""

    id: str
    labels: Mapping[str, str]


class Engine(Protocol):
    """A container engine on this node."""

    async def ping(self) -> str:
        """Return the engine's name and version if it answers within seconds."""
        ...

    async def platform(self) -> str:
        """Return what it runs and pulls, "{os}/{architecture}" in Docker's words, such as "linux/amd64"."""
        ...

    async def image(self, reference: str) -> ImageFacts | None:
        """Return the local image that a reference or an id names, if there is one."""
        ...

    async def images(self, labels: Mapping[str, str]) -> list[Image]:
        """Return all local images that have all these labels, newest first; with an empty value, any."""
        ...

    async def pull(self, reference: str, progress: Callable[[Transfer], None]) -> None:
        """Pull an image; `progress` gets how far it is, as often as the engine tells.

        Raises:
            NotFound: Its registry does not have it, refuses it or cannot be reached; the message is the
                registry's answer.
        """
        ...

    async def tag(self, image: str, reference: str) -> None:
        """Give a local image, by id or reference, one more name, "name:tag", which no other has then."""
        ...

    async def push(self, reference: str, progress: Callable[[Transfer], None]) -> str:
        """Push a local image and return its manifest's digest, "sha256:…"; `progress` as that of `pull`.

        Raises:
            InvalidArgument: Its registry refuses it or cannot be reached; the message is its answer.
        """
        ...

    async def create(self, name: str, config: Mapping[str, Any]) -> ContainerId:
        """Make a container that is not started; `config` is the body of Docker's "create container"."""
        ...

    async def start(self, container: ContainerId) -> None:
        """Start it; one that runs already is left so."""
        ...

    async def kill(self, container: ContainerId, signal: str) -> None:
        """Send a signal such as "SIGTERM"; one that does not run, or is not there, is left so."""
        ...

    async def wait(self, container: ContainerId) -> Container:
        """Wait until it has ended, for as long as the connection holds, and return it with its exit."""
        ...

    async def inspect(self, container: str) -> Container | None:
        """Return a container by id or name, if there is one."""
        ...

    async def signals(self, ended: Container) -> list[SentSignal] | None:
        """Return the signals that an ended container got through the engine, oldest first.

        Those of its own program, of the kernel and of other processes are not among them. None: the engine
        does not tell any more, for it remembers only what happened lately and since it was started.
        """
        ...

    async def containers(self, labels: Mapping[str, str]) -> list[Container]:
        """Return all containers, ended ones too, that have all these labels; an empty value: any."""
        ...

    async def remove(self, container: str) -> None:
        """Kill and remove a container and its anonymous volumes; an absent one is no error."""
        ...

    async def volumes(self, labels: Mapping[str, str], *, unused: bool = False) -> list[Volume]:
        """Return all volumes that have all these labels; with an empty value, whatever theirs is.

        With `unused` only those that no container has, running or not.
        """
        ...

    async def create_volume(self, name: str, labels: Mapping[str, str]) -> None:
        """Make a volume; one of that name that is there already stays as it is."""
        ...

    async def remove_volume(self, name: str) -> bool:
        """Remove a volume and tell whether it is gone: one that a container uses stays."""
        ...

    async def put_archive(self, container: ContainerId, path: str, archive: AsyncIterable[bytes]) -> None:
        """Unpack an uncompressed tar archive into a folder of a container that exists there."""
        ...

    async def modified(self, container: ContainerId, path: str) -> float | None:
        """Return when a path of a container was changed last, in seconds since 1970; None: it is not told."""
        ...

    def get_archive(self, container: ContainerId, path: str) -> AsyncIterator[bytes]:
        """Read a path of a container as an uncompressed tar archive; members begin with its last part."""
        ...

    def logs(self, container: ContainerId, *, follow: bool) -> AsyncIterator[bytes]:
        """Read what a container printed, from the start, byte for byte; with `follow` until it has ended."""
        ...

    async def commit(self, container: ContainerId, reference: str, config: Mapping[str, Any]) -> str:
        """Make an image of a container's file system and return its id.

        Args:
            container: Not running.
            reference: "name:tag" it gets.
            config: The image's configuration.
        """
        ...

    async def has_buildkit(self) -> bool:
        """Tell whether it has BuildKit."""
        ...

    def builder(self, *, buildkit: bool) -> BuildEngine:
        """Return what builds with Dockerfiles: its BuildKit, or its classic builder."""
        ...

    async def remove_image(self, reference: str) -> None:
        """Remove an image, or one of its names; an absent one is no error."""
        ...
