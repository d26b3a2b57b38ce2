"""The container of an attempt: what the engine is asked for, from the launch spec alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from towline.v1 import docker_pb2, leases_pb2, runs_pb2

__all__ = [
    "BUILT_USER",
    "LABEL_AGENT",
    "LABEL_EPOCH",
    "LABEL_INSTANCE",
    "LABEL_LEASE",
    "LABEL_RUN",
    "LOG_CONFIG",
    "OUTPUTS",
    "WORKSPACE",
    "ImageFacts",
    "Owner",
    "attempt_key",
    "command_line",
    "container_config",
    "container_name",
]

WORKSPACE: Final = "/workspace"
OUTPUTS: Final = "/towline/outputs"
BUILT_USER: Final = "1000:1000"
LABEL_RUN: Final = "towline.run"
LABEL_EPOCH: Final = "towline.epoch"
LABEL_LEASE: Final = "towline.lease"
LABEL_AGENT: Final = "towline.agent"
# Two installations on one node may name their agents alike; neither may touch the other's containers.
LABEL_INSTANCE: Final = "towline.instance"

# `json-file` replaces bytes that are not UTF-8; `local` keeps every byte, but would rotate them
# away: the bound is past any disk, and the container's log goes with the container.
LOG_CONFIG: Final[Mapping[str, Any]] = {
    "Type": "local",
    "Config": {"max-size": "100000g", "max-file": "1", "compress": "false"},
}


@dataclass(frozen=True)
class ImageFacts:
    """What of an image shapes its containers."""

    id: str
    """Content id, "sha256:…": what the container is made from."""
    environment: tuple[str, ...] = ()
    """"NAME=value" each."""
    user: str = ""
    """Empty: root."""


@dataclass(frozen=True)
class Owner:
    """Whose containers they are."""

    agent: str
    """"agents/{agent}"."""
    instance_id: str
    """Id of the agent's data folder."""

    @property
    def labels(self) -> dict[str, str]:
        """Return the labels that tell its containers from all others."""
        return {LABEL_AGENT: self.agent, LABEL_INSTANCE: self.instance_id}


def attempt_key(run: str, epoch: int) -> str:
    """Name an attempt in a path or a container's name: "<run id>-<epoch>"."""
    return f"{run.removeprefix('runs/')}-{epoch}"


def container_name(run: str, epoch: int) -> str:
    """Name the container of an attempt."""
    return f"towline-{attempt_key(run, epoch)}"


def command_line(spec: runs_pb2.LaunchSpec) -> str:
    """Write the command for people, at most 200 characters; empty: the image's own."""
    line = " ".join(spec.job.entrypoint)
    return line if len(line) <= 200 else line[:199] + "…"


def container_config(grant: leases_pb2.Grant, image: ImageFacts, owner: Owner) -> dict[str, Any]:
    """Make the body of the engine's "create container" for an attempt.

    Args:
        grant: The lease and its launch spec.
        image: The image it runs in.
        owner: Whose it is.
    """
    spec, options = grant.spec, grant.spec.docker
    built = spec.job.WhichOneof("source") != "image"
    config: dict[str, Any] = {
        "Image": image.id,
        "Labels": owner.labels
        | {
            LABEL_RUN: spec.run,
            LABEL_EPOCH: str(grant.epoch),
            LABEL_LEASE: grant.lease_id,
        },
        "Env": [f"{name}={value}" for name, value in _environment(grant, image).items()],
        "User": options.user or (BUILT_USER if built else image.user),
        "HostConfig": _host_config(options, grant.gpu_ids),
    }
    if built:
        config["WorkingDir"] = "/".join(filter(None, [WORKSPACE, spec.job.working_dir.strip("/")]))
    if spec.job.entrypoint:
        # The whole vector as entrypoint: neither the image's entrypoint nor its command mixes in.
        config["Entrypoint"] = list(spec.job.entrypoint)
        config["Cmd"] = []
    return config


def _environment(grant: leases_pb2.Grant, image: ImageFacts) -> dict[str, str]:
    spec = grant.spec
    own = dict(entry.partition("=")[::2] for entry in image.environment)
    environment = {
        name: value.replace("${image}", image.id) for name, value in sorted(spec.docker.environment.items())
    }
    python_path = environment.get("PYTHONPATH", own.get("PYTHONPATH", ""))
    return environment | {
        "PYTHONPATH": f"/towline/runtime:{python_path}" if python_path else "/towline/runtime",
        "PYTHONUNBUFFERED": "1",
        "TOWLINE_ATTEMPT": str(grant.attempt),
        "TOWLINE_CONFIG": "/towline/config.json",
        "TOWLINE_EPOCH": str(grant.epoch),
        "TOWLINE_JOB": spec.job_version,
        "TOWLINE_OUTPUTS": OUTPUTS,
        "TOWLINE_QUEUE": spec.queue,
        "TOWLINE_RUN": spec.run,
        "TOWLINE_RUN_NAME": spec.display_name,
    }


def _host_config(options: docker_pb2.DockerOptions, gpu_ids: Sequence[str]) -> dict[str, Any]:
    host: dict[str, Any] = {
        "Init": True,
        "CapDrop": ["ALL"],
        "CapAdd": sorted(options.capabilities),
        "SecurityOpt": ["no-new-privileges"],
        "LogConfig": LOG_CONFIG,
        "PidsLimit": options.pids_limit or 4096,
        "ReadonlyRootfs": options.read_only_root,
        "Mounts": [_towline_volume(), *map(_mount, options.mounts)],
        "Ulimits": [
            {"Name": name, "Soft": limit, "Hard": limit} for name, limit in sorted(options.ulimits.items())
        ],
    }
    if options.shm_size_bytes:
        host["ShmSize"] = options.shm_size_bytes
    if options.memory_bytes:
        # The same number twice: no swap on top.
        host["Memory"] = host["MemorySwap"] = options.memory_bytes
    if options.nano_cpus:
        host["NanoCpus"] = options.nano_cpus
    if options.network:
        host["NetworkMode"] = options.network
    if options.read_only_root:
        host["Tmpfs"] = {"/tmp": "rw,nosuid,nodev,mode=1777"}  # noqa: S108 - in the container
    if gpu_ids:
        host["DeviceRequests"] = [{"Driver": "nvidia", "DeviceIDs": list(gpu_ids), "Capabilities": [["gpu"]]}]
    return host


def _towline_volume() -> dict[str, Any]:
    """Make /towline an anonymous volume: writable under a read-only root, gone with the container."""
    return {"Type": "volume", "Target": "/towline", "VolumeOptions": {"NoCopy": True}}


def _mount(mount: docker_pb2.DockerMount) -> dict[str, Any]:
    kind = "bind" if mount.source.startswith("/") else "volume"
    return {"Type": kind, "Source": mount.source, "Target": mount.target, "ReadOnly": not mount.writable}
