"""The Docker Engine of the tests: its base image, and what a test may look for on it."""

import asyncio
import json
import subprocess
import threading
from collections.abc import Callable, Coroutine, Mapping
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from towline_agent.core.ownership import LABEL_MADE_BY
from towline_testing.waiting import eventually

REPOSITORY = Path(__file__).parents[3]
PYTHON = "3.11"
_LONGEST_TEST = timedelta(minutes=10)

T = TypeVar("T")


@cache
def base_image() -> str:
    """Return the reference of the base image; makes it where it is not there yet.

    Every test with containers asks for it, so what interrupted sessions have left goes here, once.
    """
    _remove_left_over()
    reference = f"towline/python:{PYTHON}"
    if not image_id(reference):
        subprocess.run([REPOSITORY / "deploy/dev/base-image", "ensure", PYTHON], check=True)
    return reference


def docker(*arguments: str) -> str:
    """Run the docker client and return what it prints."""
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"docker {' '.join(arguments)}: {done.stderr}"
    return done.stdout.strip()


def image_id(reference: str) -> str:
    """Return an image's id, empty where it is not there."""
    return docker("images", "--no-trunc", "--quiet", reference).partition("\n")[0]


def containers(**labels: str) -> list[str]:
    """Return ids of all containers, ended ones too, with labels such as towline_run="runs/x"."""
    return docker("ps", "--all", "--no-trunc", "--quiet", *_having(labels)).split()


def _having(labels: Mapping[str, str]) -> list[str]:
    return [f"--filter=label={name.replace('_', '.')}={value}" for name, value in labels.items()]


def remove_containers(**labels: str) -> None:
    """Remove containers with labels, and volumes; what an agent that was killed asked for last comes late."""

    def none_left() -> bool:
        for container in (found := containers(**labels)):
            subprocess.run(
                ["docker", "rm", "--force", "--volumes", container], capture_output=True, check=False
            )
        return not found

    eventually(none_left)
    found = docker("volume", "ls", "--quiet", *_having(labels)).split()
    subprocess.run(["docker", "volume", "rm", *found], capture_output=True, check=False)


def remove_inputs(agent: Path) -> None:
    """Remove what the agent with this data folder keeps for later runs; it does not run any more."""
    identity = agent / "agent.json"
    if not identity.exists():
        return
    instance = json.loads(identity.read_text())["instance_id"]
    remove_containers(towline_spare=instance)
    fillers = docker("ps", "--all", "--quiet", f"--filter=label=towline.input-filler={instance}").split()
    subprocess.run(["docker", "rm", "--force", *fillers], capture_output=True, check=False)
    found = docker("volume", "ls", "--quiet", f"--filter=label=towline.input-owner={instance}").split()
    subprocess.run(["docker", "volume", "rm", *found], capture_output=True, check=False)


def remove_images(builder: str) -> None:
    """Remove the images that a builder made; one that another test's was made from stays."""
    made = docker("images", "--quiet", f"--filter=label={LABEL_MADE_BY}={builder}").split()
    for image in dict.fromkeys(made):  # newest first: those that were made from others
        subprocess.run(["docker", "rmi", "--force", image], capture_output=True, check=False)


def _remove_left_over() -> None:
    """Remove containers of tests that ended long ago; younger ones may be a session's beside this one."""
    ended = datetime.now(UTC) - _LONGEST_TEST
    for container in docker("ps", "--all", "--no-trunc", "--quiet").split():
        shown = subprocess.run(["docker", "inspect", container], capture_output=True, check=False)
        if shown.returncode != 0:  # gone meanwhile
            continue
        found = json.loads(shown.stdout)[0]
        labels = found["Config"]["Labels"] or {}
        of_tests = labels.get("towline.agent", "").startswith("agents/test-") or "towline.test" in labels
        # Nanoseconds are more than datetime reads; seconds are enough.
        if of_tests and datetime.fromisoformat(f"{found['Created'][:19]}+00:00") < ended:
            subprocess.run(
                ["docker", "rm", "--force", "--volumes", container], capture_output=True, check=False
            )


class EngineProxy:
    """A socket in front of the engine's, which a test may take away: an engine that stops and comes back.

    It has a thread of its own: an answer that nobody reads any more keeps its container locked in the engine,
    and a test that then waits for the engine would hold up the one who could end that.
    """

    def __init__(self, path: Path) -> None:
        self.url = f"unix://{path}"
        self.silent = False
        """Nothing that the engine says from now on arrives, until the next start."""
        self._path = path

    async def start(self) -> None:
        self.silent = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server = await self._there(asyncio.start_unix_server(self._connected, self._path))

    async def stop(self) -> None:
        await self._there(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        await asyncio.to_thread(self._thread.join)
        self._loop.close()

    async def _there(self, work: Coroutine[Any, Any, T]) -> T:
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    async def _close(self) -> None:
        self._server.close()
        self._path.unlink(missing_ok=True)
        connections = asyncio.all_tasks() - {asyncio.current_task()}
        for connection in connections:
            connection.cancel()
        if connections:
            await asyncio.wait(connections)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, away = await asyncio.open_unix_connection("/var/run/docker.sock")
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(_copy(reader, away))
                group.create_task(_copy(there, writer, lambda: self.silent))
        finally:
            writer.transport.abort()
            away.transport.abort()


async def _copy(
    source: asyncio.StreamReader, target: asyncio.StreamWriter, drops: Callable[[], bool] = lambda: False
) -> None:
    try:
        while data := await source.read(65536):
            if not drops():
                target.write(data)
                await target.drain()
        target.write_eof()
    except OSError:  # the other side is gone
        target.transport.abort()


def inspect(container: str) -> Mapping[str, Any]:
    """Return what the engine tells about a container."""
    found: Mapping[str, Any] = json.loads(docker("inspect", container))[0]
    return found


def volumes() -> set[str]:
    """Return the names of all volumes."""
    return set(docker("volume", "ls", "--quiet").split())
