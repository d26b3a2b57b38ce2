"""Settings of an agent, from environment variables that begin with TOWLINE_AGENT_."""

import json
import os
import re
import socket
from pathlib import Path
from typing import Annotated, Any

from pydantic import ByteSize, Field, field_validator
from pydantic_settings import NoDecode, SettingsConfigDict

from towline import names
from towline.errors import InvalidArgument
from towline.requests.images import parse, repository
from towline.service.settings import ServiceSettings
from towline_agent.builders import BuilderChoice
from towline_agent.credentials import default_file

__all__ = ["AgentSettings"]

# sun_path of Linux holds 108 bytes with its NUL.
_SOCKET_PATH_BYTES = 107


def _default_name() -> str:
    name = re.sub(r"[^A-Za-z0-9_.-]", "-", socket.gethostname()).strip("-.")
    return name[:128] or "agent"


def _default_data_dir() -> Path:
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "towline" / "agent"


List = Annotated[tuple[str, ...], NoDecode]


class AgentSettings(ServiceSettings):
    """Settings of an agent; lists are written with commas or as JSON."""

    model_config = SettingsConfigDict(env_prefix="TOWLINE_AGENT_", env_ignore_empty=True)

    listen: str = ""
    """Where AgentService listens; default: unix:DATA_DIR/agent.sock."""

    agent: str = Field(default_factory=_default_name)
    """Name of the agent, stable over restarts; default: the host's name."""

    queue_address: str = "127.0.0.1:7421"
    """Address of the queue service."""

    registry_address: str = "127.0.0.1:7420"
    """Address of the registry."""

    queues: List = ("default",)
    """Queues to serve, in order of preference."""

    slots: int | None = Field(default=None, ge=1)
    """Attempts at once; default: one for each GPU, or 1 on a node without."""

    gpus: str = "auto"
    """"auto" asks NVML, "none" uses none, else UUIDs with commas between them."""

    labels: Annotated[dict[str, str], NoDecode] = Field(default_factory=dict)
    """Labels of the node, "name=value,…" or JSON."""

    data_dir: Path = Field(default_factory=_default_data_dir)
    """Folder that is the agent's own and survives restarts."""

    docker_host: str | None = None
    """URL of the engine; default: DOCKER_HOST, Docker's current context, or the default socket."""

    base_images: List = ("towline/python:{version}", "python:{version}-slim")
    """Base images to look for, in order; {version} becomes "X.Y"."""

    ready_pythons: List = ()
    """Versions of Python, "X.Y", whose base images the node is to have before a run wants them."""

    ready_images: List = ()
    """Further images that the node is to have before a run wants them, as `docker pull` takes them."""

    build_index_url: str = ""
    """Package index in place of PyPI; may carry credentials, which stay out of images and logs."""

    build_extra_index_urls: List = ()
    """Package indexes asked before that one; may carry credentials."""

    build_ca_bundle: Path | None = None
    """PEM file that installations trust in place of the public authorities; never in an image."""

    conda_channels: Annotated[dict[str, str], NoDecode] = Field(default_factory=dict)
    """Where channels of conda are, by the names that environments use, such as
    "conda-forge=https://user:password@mirror.example/conda-forge"; default: on anaconda.org."""

    build_apt_mirrors: Annotated[dict[str, str], NoDecode] = Field(default_factory=dict)
    """Where system packages come from in place of what a base image's own sources name, such as
    "http://SERVER=https://user:password@mirror.example"; passwords are in no image or log."""

    build_network: str = ""
    """Docker network of builds; default: the engine's default bridge."""

    dockerfile_builder: BuilderChoice = BuilderChoice.AUTO
    """What builds with Dockerfiles: "buildkit", "classic", or "auto", BuildKit where the engine has it."""

    build_secrets: Annotated[dict[str, Path], NoDecode] = Field(default_factory=dict)
    """Secrets that Dockerfiles may mount by their ids, "id=FILE,…" or JSON; no image and no log has them, but
    whoever may submit a job with a Dockerfile can use them."""

    build_cache_volume: str = "towline-uv-cache"
    """Docker volume that keeps downloads between builds of all jobs on this node; "-": none."""

    input_cache: ByteSize = ByteSize(100 * 2**30)
    """Bytes of input data that are kept on the node for later runs, such as 100GiB."""

    build_cache: ByteSize = ByteSize(50 * 2**30)
    """Bytes of downloads that builds keep on the node."""

    image_cache: ByteSize | None = None
    """Bytes of images that this agent made or pulled and keeps; default: what the disk has room for."""

    keep_free: ByteSize | None = None
    """Bytes to keep free on each disk that the agent and its engine write to: below that, what can be got
    again goes; below half of it, no runs are taken. Default: a twentieth, 10 GiB at most; 0: none."""

    image_repository: str = ""
    """Repository that the agents of a fleet share their images in, such as "images.example:5000/towline": one
    of them builds an image, and the others pull it. Default: each node builds its own."""

    registry_logins: Path = Field(default_factory=default_file)
    """Logins of container registries, in the form of Docker's config.json; default: Docker's client's own."""

    git_protocols: List = ("https", "ssh", "http", "git")
    """Protocols that git sources may use."""

    @field_validator(
        "queues",
        "base_images",
        "ready_pythons",
        "ready_images",
        "build_extra_index_urls",
        "git_protocols",
        mode="before",
    )
    @classmethod
    def _split(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        if value.lstrip().startswith("["):
            return json.loads(value)
        return tuple(word.strip() for word in value.split(",") if word.strip())

    @field_validator("labels", "build_apt_mirrors", "conda_channels", "build_secrets", mode="before")
    @classmethod
    def _pairs(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        if value.lstrip().startswith("{"):
            return json.loads(value)
        return dict(pair.strip().partition("=")[::2] for pair in value.split(",") if pair.strip())

    @field_validator("queues")
    @classmethod
    def _some_queue(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not 1 <= len(value) <= 64:
            raise ValueError("name 1 to 64 queues")
        return value

    @field_validator("ready_pythons")
    @classmethod
    def _versions(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for version in value:
            if not re.fullmatch(r"3\.\d{1,2}", version):
                raise ValueError(f"{version!r} is no version of Python; write it as 3.11")
        return value

    @field_validator("ready_images")
    @classmethod
    def _references(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for reference in value:
            try:
                parse(reference)
            except InvalidArgument as error:
                raise ValueError(error.message) from error
        return value

    @field_validator("build_secrets")
    @classmethod
    def _secrets(cls, value: dict[str, Path]) -> dict[str, Path]:
        for name, file in value.items():
            if not name or not file.is_absolute():
                raise ValueError(f"{name!r}: write ID=FILE, with the whole path of the file")
        return value

    @field_validator("image_repository")
    @classmethod
    def _repository(cls, value: str) -> str:
        try:
            return repository(value, "IMAGE_REPOSITORY") if value else value
        except InvalidArgument as error:
            raise ValueError(error.message) from error

    @property
    def agent_name(self) -> names.AgentName:
        """Return "agents/{agent}"; InvalidArgument if the setting is no name."""
        return names.agent(f"agents/{self.agent.removeprefix('agents/')}", "TOWLINE_AGENT_AGENT")

    @property
    def queue_names(self) -> list[names.QueueName]:
        """Return "queues/{queue}" each; InvalidArgument if one is no name."""
        return [
            names.queue(f"queues/{word.removeprefix('queues/')}", "TOWLINE_AGENT_QUEUES")
            for word in self.queues
        ]

    def model_post_init(self, _context: Any) -> None:
        """Fill in what depends on other settings."""
        self.data_dir = self.data_dir.expanduser().absolute()
        if not self.listen:
            self.listen = f"unix:{self.data_dir / 'agent.sock'}"
        if self.listen.startswith("unix:") and len(os.fsencode(self.listen[5:])) > _SOCKET_PATH_BYTES:
            raise ValueError(
                f"LISTEN: {self.listen[5:]} is too long for a socket ({_SOCKET_PATH_BYTES} bytes at most); "
                "set TOWLINE_AGENT_LISTEN, such as unix:/run/towline-agent.sock"
            )
