"""The processes of a container, found and signalled without its engine.

The kernel's control groups say which they are: Docker names a container's group by its full id,
"/docker/<id>" with cgroupfs and "/system.slice/docker-<id>.scope" with systemd, in v1 and v2 alike.
"""

import errno
import os
import re
import signal
import time
from pathlib import Path
from typing import Final

__all__ = ["first_of", "is_in", "kill_all", "names", "processes_of", "send"]

_FULL_ID: Final = re.compile(r"[0-9a-f]{64}")
_ROUNDS: Final = 20
_PAUSE_S: Final = 0.02


def names(cgroup: str, container_id: str) -> bool:
    """Tell whether a process is in a container.

    Args:
        cgroup: What /proc/<pid>/cgroup says: lines of "number:controllers:path".
        container_id: Its full id; less than that names no container.
    """
    if not _FULL_ID.fullmatch(container_id):
        return False
    own = re.compile(rf"(?:[a-z-]+-)?{container_id}(?:\.scope)?")
    paths = (line.split(":", 2)[-1] for line in cgroup.splitlines())
    return any(own.fullmatch(part) for path in paths for part in path.split("/"))


def is_in(pid: int, container_id: str, proc: Path = Path("/proc")) -> bool:
    """Tell whether a process lives and is in a container."""
    try:
        return names((proc / str(pid) / "cgroup").read_text(errors="replace"), container_id)
    except OSError:
        return False


def processes_of(container_id: str, proc: Path = Path("/proc")) -> list[int]:
    """Return the pids of a container's processes, zombies left out: they are dead."""
    pids = [int(entry.name) for entry in proc.iterdir() if entry.name.isdecimal()]
    return [pid for pid in pids if is_in(pid, container_id, proc) and not _is_zombie(pid, proc)]


def first_of(pids: list[int], proc: Path = Path("/proc")) -> list[int]:
    """Return the one that is pid 1 in the container, which an engine's signal goes to; else all."""
    return [pid for pid in pids if _status(pid, "NSpid:", proc)[-1:] == ["1"]] or pids


def send(pid: int, container_id: str, number: signal.Signals) -> bool:
    """Signal a process if it is in the container, and tell whether it was: never another of its pid."""
    try:
        handle = os.pidfd_open(pid)
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EPERM):
            return False
        return _send_by_number(pid, container_id, number)  # a kernel, or a sandbox, without pidfds
    try:
        if not is_in(pid, container_id):
            return False
        signal.pidfd_send_signal(handle, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(handle)
    return True


def kill_all(container_id: str) -> int:
    """Kill a container's processes until none is left that could make more; return how many are left."""
    left: list[int] = []
    for _ in range(_ROUNDS):
        left = processes_of(container_id)
        if not left:
            return 0
        for pid in left:
            send(pid, container_id, signal.SIGKILL)
        time.sleep(_PAUSE_S)
    return len(left)


def _send_by_number(pid: int, container_id: str, number: signal.Signals) -> bool:
    if not is_in(pid, container_id):
        return False
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def _is_zombie(pid: int, proc: Path) -> bool:
    return _status(pid, "State:", proc)[:1] in (["Z"], ["X"])


def _status(pid: int, name: str, proc: Path) -> list[str]:
    """Return the words that /proc/<pid>/status has for a name; none: the process is gone."""
    try:
        lines = (proc / str(pid) / "status").read_text(errors="replace").splitlines()
    except OSError:
        return []
    return next((line.split()[1:] for line in lines if line.startswith(name)), [])
