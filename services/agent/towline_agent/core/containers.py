"""The container of an attempt: what the engine is asked for, from the launch spec alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from towline.runtime.arguments import PREFIX
from towline.v1 import docker_pb2, leases_pb2, runs_pb2
from towline_agent.core.ownership import (
    LABEL_AGENT,
    LABEL_EPOCH,
    LABEL_INSTANCE,
    LABEL_JOB,
    LABEL_LEASE,
    LABEL_RUN,
    LABEL_SPARE,
    Owner,
    attempt_key,
    container_name,
)

__all__ = [
    "ARTIFACTS",
    "BUILT_USER",
    "INPUTS",
    "INPUTS_FILE",
    "LABEL_AGENT",
    "LABEL_EPOCH",
    "LABEL_INSTANCE",
    "LABEL_LEASE",
    "LABEL_RUN",
    "LABEL_SPARE",
    "LOG_CONFIG",
    "OUTPUTS",
    "RESULTS",
    "STOP_FILE",
    "SUMMARY",
    "UNTOUCHED",
    "WORKSPACE",
    "ImageFacts",
    "Owner",
    "attempt_key",
    "command_line",
    "container_config",
    "container_name",
    "source_folder",
    "spare_filler",
    "spare_labels",
    "stop_signal",
    "towline_volume",
]

WORKSPACE: Final = "/workspace"
OUTPUTS: Final = "/towline/outputs"
INPUTS: Final = "/towline/inputs"
INPUTS_FILE: Final = "/towline/inputs.json"
# Not in /towline itself, in which only folders made for it can be written by a program that is not root.
RESULTS: Final = "/towline/results"
SUMMARY: Final = f"{RESULTS}/summary.json"
ARTIFACTS: Final = "/towline/artifacts"
# When OUTPUTS, RESULTS and ARTIFACTS were changed last, in seconds since 1970, as long as nothing was made in
# them: a time that no tool sets by itself, unlike 0.
UNTOUCHED: Final = 123456789
STOP_FILE: Final = "/towline/stop.json"
BUILT_USER: Final = "1000:1000"

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
    size_bytes: int = 0
    """Of all its layers, unpacked."""
    platform: str = ""
    """As "{os}/{architecture}" or "{os}/{architecture}/{variant}"; empty: it is not told."""
    working_dir: str = ""
    """Empty: the root."""


def command_line(spec: runs_pb2.LaunchSpec) -> str:
    """Write the command for people, at most 200 characters; empty: the image's own."""
    words = spec.job.entrypoint
    line = " ".join(words[len(PREFIX) :] if tuple(words[: len(PREFIX)]) == PREFIX else words)
    return line if len(line) <= 200 else line[:199] + "…"


def source_folder(spec: runs_pb2.LaunchSpec, image: ImageFacts) -> str:
    """Return where a built image has its job's source tree: a Dockerfile puts it into its WORKDIR."""
    chosen = image.working_dir if spec.HasField("dockerfile") else ""
    return chosen if chosen.strip("/") else WORKSPACE


def stop_signal(spec: runs_pb2.LaunchSpec) -> str:
    """Return the signal that asks a run's program to stop."""
    return spec.stop_signal or "SIGTERM"


def container_config(
    grant: leases_pb2.Grant,
    image: ImageFacts,
    owner: Owner,
    inputs: Sequence[Mapping[str, Any]] = (),
    volume: str = "",
) -> dict[str, Any]:
    """Make the body of the engine's "create container" for an attempt.

    Args:
        grant: The lease and its launch spec.
        image: The image it runs in.
        owner: Whose it is.
        inputs: The mounts of its inputs.
        volume: Name of one for /towline; empty: the engine makes one that goes with the container.
    """
    spec, options = grant.spec, grant.spec.docker
    built = spec.job.WhichOneof("source") != "image"
    labels = owner.labels | {
        LABEL_RUN: spec.run,
        LABEL_JOB: spec.job_version,
        LABEL_EPOCH: str(grant.epoch),
        LABEL_LEASE: grant.lease_id,
    }
    config: dict[str, Any] = {
        "Image": image.id,
        "Labels": labels,
        "Env": [f"{name}={value}" for name, value in _environment(grant, image).items()],
        "User": options.user or (image.user if spec.HasField("dockerfile") or not built else BUILT_USER),
        "HostConfig": _host_config(options, grant.gpu_ids),
    }
    towline = _spare_mount(volume, owner) if volume else towline_volume(labels)
    config["HostConfig"]["Mounts"] = [towline, *map(_mount, options.mounts), *inputs]
    if built:
        folder = source_folder(spec, image)
        if options.read_only_root and spec.job.config_files:
            config["HostConfig"]["Mounts"].append(_source_volume(folder, labels))
        config["WorkingDir"] = "/".join(filter(None, [folder, spec.job.working_dir.strip("/")]))
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
        "TOWLINE_ARTIFACTS": ARTIFACTS,
        "TOWLINE_ATTEMPT": str(grant.attempt),
        "TOWLINE_CONFIG": "/towline/config.json",
        "TOWLINE_EPOCH": str(grant.epoch),
        "TOWLINE_INPUTS": INPUTS,
        "TOWLINE_INPUTS_FILE": INPUTS_FILE,
        "TOWLINE_JOB": spec.job_version,
        "TOWLINE_OUTPUTS": OUTPUTS,
        "TOWLINE_QUEUE": spec.queue,
        "TOWLINE_RUN": spec.run,
        "TOWLINE_RUN_NAME": spec.display_name,
        "TOWLINE_STOP_FILE": STOP_FILE,
        "TOWLINE_STOP_SIGNAL": stop_signal(spec),
        "TOWLINE_SUMMARY": SUMMARY,
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


def towline_volume(labels: Mapping[str, str]) -> dict[str, Any]:
    """Make /towline an anonymous volume: writable under a read-only root, gone with the container.

    Args:
        labels: Say whose it is, should the engine lose the container without it.
    """
    options = {"NoCopy": True, "Labels": dict(labels)}
    return {"Type": "volume", "Target": "/towline", "VolumeOptions": options}


def spare_labels(owner: Owner) -> dict[str, str]:
    """Make the labels of a volume that is filled for a run to come, and of what it is filled through."""
    return owner.labels | {LABEL_SPARE: owner.instance_id}


def spare_filler(image: str, volume: str, owner: Owner) -> dict[str, Any]:
    """Make the body of "create container" for one that is never started: a volume is filled through it."""
    return {
        "Image": image,
        "Entrypoint": ["/towline"],
        "Labels": spare_labels(owner),
        "HostConfig": {"Mounts": [_spare_mount(volume, owner)], "NetworkMode": "none"},
    }


def _spare_mount(volume: str, owner: Owner) -> dict[str, Any]:
    # The labels are for the case that it is gone: then the engine makes another one.
    return towline_volume(spare_labels(owner)) | {"Source": volume}


def _source_volume(folder: str, labels: Mapping[str, str]) -> dict[str, Any]:
    """Make a folder a volume with what the image has there: no file can be put into a read-only root."""
    return {"Type": "volume", "Target": folder, "VolumeOptions": {"Labels": dict(labels)}}


def _mount(mount: docker_pb2.DockerMount) -> dict[str, Any]:
    kind = "bind" if mount.source.startswith("/") else "volume"
    return {"Type": kind, "Source": mount.source, "Target": mount.target, "ReadOnly": not mount.writable}
