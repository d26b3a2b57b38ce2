"""The watchdog as a process: `python -m towline_agent.watchdog DATA_DIR`; an agent starts it by itself."""

import argparse
import os
import signal
import sys
from pathlib import Path
from typing import Final

from towline_agent.deadlines import Deadlines, boottime
from towline_agent.watchdog.docker import Docker
from towline_agent.watchdog.enforcement import Enforcement
from towline_agent.watchdog.lock import held, taken
from towline_agent.watchdog.log import Log

_POLL_S: Final = 0.5
_RETRY_S: Final = 0.05
_SURVEY_EVERY_S: Final = 2.0
# The last to be killed when memory runs out: it needs little, and the node's leases rest on it.
_OOM_SCORE: Final = "-900"


def main() -> int:
    """Watch until there is nothing to watch and no agent; return the exit status."""
    parser = argparse.ArgumentParser(prog="towline_agent.watchdog", description=__doc__)
    parser.add_argument("data_dir", type=Path, help="the agent's data folder")
    parser.add_argument("--docker-host", default="unix:///var/run/docker.sock", help="URL of the engine")
    parser.add_argument("--release", default="", help="version it is to be known by")
    parser.add_argument("--detach", action="store_true", help="go to the background and print its pid")
    options = parser.parse_args()
    data_dir: Path = options.data_dir.absolute()
    ready = None
    if options.detach:
        readable, ready = os.pipe()
        if os.fork():
            os.close(ready)
            return _await(readable)
        os.close(readable)
        _detach()
    for ignored in (signal.SIGINT, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    log = Log(data_dir / "watchdog.log" if options.detach else None)
    with taken(data_dir / "watchdog.lock", options.release, options.docker_host):
        _shield()
        file, engine = Deadlines(data_dir), Docker(options.docker_host)
        enforcement = Enforcement(data_dir, file, engine, log, boottime)
        enforcement.look()
        log(f"watching {data_dir} as pid {os.getpid()}, version {options.release or 'unknown'}")
        if ready is not None:
            os.write(ready, str(os.getpid()).encode())
            os.close(ready)
        log(f"leaving: {_watch(enforcement, data_dir / 'agent.lock')}")
    return 0


def _watch(enforcement: Enforcement, agent_lock: Path) -> str:
    """Watch; return why no longer."""
    survey_at = 0.0
    while True:
        enforcement.look()
        enforcement.act()
        if boottime() >= survey_at:
            survey_at = boottime() + _SURVEY_EVERY_S
            if not held(agent_lock):
                enforcement.survey()
                if enforcement.nothing_left:
                    return "no agent runs and nothing is left to watch"
        pause = min(_POLL_S, max(_RETRY_S, enforcement.next_due - boottime()))
        if signal.sigtimedwait({signal.SIGTERM}, pause):
            return "asked to"


def _await(readable: int) -> int:
    """Pass on the pid of the process in the background once it watches."""
    pid = os.read(readable, 32).decode()
    sys.stdout.write(pid)
    return 0 if pid else 1


def _detach() -> None:
    """Become a session of its own that holds on to no terminal, folder or pipe."""
    os.setsid()
    os.chdir("/")
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nothing, standard)
    os.close(nothing)


def _shield() -> None:
    try:
        Path("/proc/self/oom_score_adj").write_text(_OOM_SCORE)
    except OSError:  # only root may; others take their chance
        return


if __name__ == "__main__":
    sys.exit(main())
