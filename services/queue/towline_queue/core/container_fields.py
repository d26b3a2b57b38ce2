"""What the fields of a container may hold: a value, or a ValueError with the remedy."""

import posixpath
import re
from typing import Final

from towline_queue.core import quantities

__all__ = [
    "capability",
    "check_environment_name",
    "check_given",
    "check_ulimit_name",
    "environment_value",
    "image_reference",
    "mount_source",
    "mount_target",
    "network",
    "shm_size",
    "user",
]

_CAPABILITIES: Final = frozenset(
    {
        "AUDIT_CONTROL",
        "AUDIT_READ",
        "AUDIT_WRITE",
        "BLOCK_SUSPEND",
        "BPF",
        "CHECKPOINT_RESTORE",
        "CHOWN",
        "DAC_OVERRIDE",
        "DAC_READ_SEARCH",
        "FOWNER",
        "FSETID",
        "IPC_LOCK",
        "IPC_OWNER",
        "KILL",
        "LEASE",
        "LINUX_IMMUTABLE",
        "MAC_ADMIN",
        "MAC_OVERRIDE",
        "MKNOD",
        "NET_ADMIN",
        "NET_BIND_SERVICE",
        "NET_BROADCAST",
        "NET_RAW",
        "PERFMON",
        "SETFCAP",
        "SETGID",
        "SETPCAP",
        "SETUID",
        "SYS_ADMIN",
        "SYS_BOOT",
        "SYS_CHROOT",
        "SYS_MODULE",
        "SYS_NICE",
        "SYS_PACCT",
        "SYS_PTRACE",
        "SYS_RAWIO",
        "SYS_RESOURCE",
        "SYS_TIME",
        "SYS_TTY_CONFIG",
        "SYSLOG",
        "WAKE_ALARM",
    }
)
_ULIMITS: Final = frozenset(
    {
        "core",
        "cpu",
        "data",
        "fsize",
        "locks",
        "memlock",
        "msgqueue",
        "nice",
        "nofile",
        "nproc",
        "rss",
        "rtprio",
        "rttime",
        "sigpending",
        "stack",
    }
)
_ENVIRONMENT_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,255}")
_NETWORK: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_VOLUME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{1,127}")
_USER: Final = re.compile(r"([0-9]{1,10})(?::([0-9]{1,10}))?")
_MAX_ID: Final = 2**31 - 1
_IMAGE: Final = re.compile(
    r"(?:[A-Za-z0-9][A-Za-z0-9.-]*(?::[0-9]+)?/)?[a-z0-9]+(?:[._/-]+[a-z0-9]+)*"
    r"(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(?:@sha256:[0-9a-f]{64})?"
)
_MAX_VALUE_BYTES: Final = 64 * 1024
_MAX_PATH: Final = 1024
_MAX_REFERENCE: Final = 512


def shm_size(text: str) -> int:
    """Read the size of /dev/shm as bytes."""
    return quantities.memory(text, least=1)


def network(text: str) -> str:
    """Read the name of a Docker network."""
    if not _NETWORK.fullmatch(text):
        raise ValueError(f'{text!r} is no network; write the name of a Docker network, "none" or "host"')
    return text


def user(text: str) -> str:
    """Read "uid" or "uid:gid"."""
    match = _USER.fullmatch(text)
    if match is None or any(int(number) > _MAX_ID for number in match.groups() if number):
        raise ValueError(f'{text!r} is no user; write numbers, "uid" or "uid:gid", such as "1000:1000"')
    return text


def capability(text: str) -> str:
    """Read a Linux capability without its prefix."""
    if text in _CAPABILITIES:
        return text
    plain = text.upper().removeprefix("CAP_")
    remedy = f"write {plain}" if plain in _CAPABILITIES else "write one that Linux has, such as SYS_NICE"
    raise ValueError(f"{text!r} is no capability; {remedy}")


def check_ulimit_name(name: str) -> None:
    """Check the name of a ulimit."""
    if name not in _ULIMITS:
        raise ValueError(f"{name!r} is no ulimit; known are {', '.join(sorted(_ULIMITS))}")


def check_environment_name(name: str) -> None:
    """Check the name of an environment variable."""
    if not _ENVIRONMENT_NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no name of an environment variable; use letters, digits and '_'")
    if name.startswith("TOWLINE_"):
        raise ValueError("names that start with TOWLINE_ are set by Towline; take another")


def environment_value(text: str) -> str:
    """Read the value of an environment variable."""
    if "\0" in text:
        raise ValueError("an environment variable cannot hold a NUL character")
    if len(text.encode()) > _MAX_VALUE_BYTES:
        raise ValueError(f"is larger than {_MAX_VALUE_BYTES} bytes")
    return text


def image_reference(text: str) -> str:
    """Read a reference as `docker pull` takes it."""
    if len(text) > _MAX_REFERENCE or not _IMAGE.fullmatch(text):
        raise ValueError(
            f"{text[:80]!r} is no image; write it as docker pull takes it, such as python:3.11-slim"
        )
    return text


def check_given(text: str) -> None:
    """Check that a field is not left empty."""
    if not text:
        raise ValueError("must be given")


def mount_source(text: str) -> str:
    """Read an absolute path of the node, or the name of a Docker volume."""
    if text.startswith("/"):
        return _path(text)
    if not _VOLUME.fullmatch(text):
        raise ValueError(f"{text!r} is neither an absolute path nor the name of a Docker volume")
    return text


def mount_target(text: str) -> str:
    """Read an absolute path in the container that Towline does not need itself."""
    if not text.startswith("/"):
        raise ValueError(f"{text!r} is no absolute path")
    path = _path(text)
    if path in ("/", "/workspace"):
        raise ValueError(f"{path} would hide what the image has there; mount below it, or elsewhere")
    if path == "/towline" or path.startswith("/towline/"):
        raise ValueError("/towline belongs to Towline; mount elsewhere")
    return path


def _path(text: str) -> str:
    if ".." in text.split("/") or "\0" in text or ":" in text or len(text) > _MAX_PATH:
        raise ValueError(
            f"{text[:80]!r}: a path holds no '..', ':' or NUL and at most {_MAX_PATH} characters"
        )
    # POSIX keeps two leading slashes; nothing here does.
    return "/" + posixpath.normpath(text).lstrip("/")
