"""How an agent starts its watchdog and sees to it that there is one."""

import asyncio
import logging
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Final

from towline.errors import Internal
from towline_agent.watchdog.lock import holder

__all__ = ["ensure_running", "keep_running"]

_log = logging.getLogger(__name__)
_START_S: Final = 20.0
_LOOK_EVERY_S: Final = 2.0


def ensure_running(data_dir: Path, engine_url: str) -> int:
    """Start a watchdog unless one of this version is there, and return its pid.

    One of another version, or for another engine, is relieved by the new one, which has loaded all
    it needs before it asks: nobody watches for milliseconds only.

    Args:
        data_dir: The agent's folder; the caller holds its lock.
        engine_url: Where the engine is, such as "unix:///var/run/docker.sock".

    Raises:
        Internal: It did not start; DATA_DIR/watchdog.log says why. Reason WATCHDOG_FAILED.
    """
    release = version("towline")
    found = holder(data_dir / "watchdog.lock")
    if found and (found.version, found.engine) == (release, engine_url):
        return found.pid
    command = [sys.executable, "-m", "towline_agent.watchdog", str(data_dir)]
    command += ["--docker-host", engine_url, "--release", release, "--detach"]
    try:
        started = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_START_S,
            check=True,
            start_new_session=True,  # a Ctrl-C on the agent is not meant for it
        )
    except (OSError, subprocess.SubprocessError) as error:
        detail = getattr(error, "stderr", None) or str(error)
        raise Internal(
            f"the watchdog did not start ({detail.strip()}); {data_dir / 'watchdog.log'} may say more",
            reason="WATCHDOG_FAILED",
        ) from error
    return int(started.stdout)


async def keep_running(data_dir: Path, engine_url: str) -> None:
    """Have a watchdog at all times, see `ensure_running`; runs until cancelled."""
    told = ""
    while True:
        try:
            await asyncio.to_thread(ensure_running, data_dir, engine_url)
            told = ""
        except Internal as error:
            if error.message != told:
                _log.error("%s; should this agent die, its containers outlive their leases", error.message)
            told = error.message
        await asyncio.sleep(_LOOK_EVERY_S)
