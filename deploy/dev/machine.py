"""The developer's machine, as the scripts beside this file use it: state, locks, packages, one-line messages.

Standard library only: these scripts run before there is a virtual environment.
"""

import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Outside the working tree: there is one Docker Engine per machine, however many clones.
STATE = Path(
    os.environ.get("TOWLINE_DEV_STATE")
    or Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "towline-dev"
)
# The default is spelled out: the docker client would follow a context, which the agent does not know.
DOCKER_HOST = os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"
# /usr/sbin, where Debian keeps dockerd and its helpers, is not on every user's PATH.
PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
DOCKER_ENV = {**os.environ, "DOCKER_HOST": DOCKER_HOST, "PATH": PATH}


def say(message: str) -> None:
    """Tell the person; standard output stays free for results."""
    print(f"towline: {message}", file=sys.stderr, flush=True)


def install(reason: str, *packages: str) -> None:
    """Install Debian packages, or exit after telling the person what to do."""
    script = Path(__file__).resolve().parent / "apt-install"
    if subprocess.run([script, reason, *packages], check=False).returncode:
        sys.exit(1)


@contextmanager
def lock(name: str, *, shared: bool = False, wait: bool = True) -> Iterator[bool]:
    """Hold a machine-wide lock, dropped by the kernel should this process die; yield False if it is taken."""
    STATE.mkdir(parents=True, exist_ok=True)
    with (STATE / name).open("w") as file:
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
        else:
            yield True
