"""Uploads and downloads whose client or registry is killed in the middle."""

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.artifacts.trees import Tree, same
from towline_testing.cut import CuttingProxy, cutting_proxy
from towline_testing.registry import RegistryProcess

__all__ = ["Resumed", "resume"]

LOOK_EVERY_S: Final = 0.01
# What is on its way when something is killed, and names and digests; and a share for large folders.
SLACK_BYTES: Final = 16 * 1024 * 1024
SLACK_SHARE: Final = 0.1


@dataclass(frozen=True)
class Fault:
    """What happens during an upload.

    Args:
        who: "client" or "registry", is killed.
        at: Each time that so many bytes were sent.
    """

    who: str
    at: Sequence[int]


@dataclass(frozen=True)
class Resumed:
    """How it ended.

    Args:
        identical: Whether what came down is what went up.
        bytes_fraction: Bytes that went up, as a share of the folder.
        ok: Whether both are as they should be: little more than the folder went up.
    """

    identical: bool
    bytes_fraction: float
    ok: bool


async def resume(start: Callable[[], RegistryProcess], tree: Tree, folder: Path, fault: Fault) -> Resumed:
    """Upload a folder while somebody is killed, going on each time; then download it.

    Args:
        start: Starts the registry, with what it had before.
        tree: What is moved.
        folder: Where the download goes; it is gone afterwards.
        fault: What happens.
    """
    registry = start()
    down = folder / "down"
    try:
        async with cutting_proxy(registry.address, []) as proxy:
            put = ("put", tree.root, "--name", "killed", "--type", "dataset")
            client = _start(proxy, folder, *put)
            for sent_bytes in fault.at:
                while proxy.sent < sent_bytes and client.poll() is None:  # noqa: ASYNC110 - processes set no events
                    await asyncio.sleep(LOOK_EVERY_S)  # the proxy works in this event loop meanwhile
                if fault.who == "client":
                    client.kill()
                    client.wait()
                    client = _start(proxy, folder, *put)
                else:
                    registry.kill()
                    registry = start()
                    proxy.upstream = registry.address
            await _end(client)
            sent = proxy.sent
            await _end(_start(proxy, folder, "get", "killed", "--to", down))
        identical = same(tree.root, down)
    finally:
        registry.stop()
        shutil.rmtree(down, ignore_errors=True)
    most = tree.size_bytes * (1 + SLACK_SHARE) + SLACK_BYTES * len(fault.at)
    return Resumed(identical, sent / tree.size_bytes, identical and sent <= most)


def _start(proxy: CuttingProxy, folder: Path, *arguments: str | Path) -> subprocess.Popen[bytes]:
    environment = {
        "TOWLINE_REGISTRY_ADDRESS": proxy.address,
        "TOWLINE_QUEUE_ADDRESS": "127.0.0.1:1",
        "TOWLINE_CACHE_DIR": str(folder / "cache"),
    }
    command = [sys.executable, "-m", "towline.cli", "artifact", *map(str, arguments)]
    return subprocess.Popen(
        command, env=os.environ | environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )


async def _end(process: subprocess.Popen[bytes]) -> None:
    while process.poll() is None:  # noqa: ASYNC110 - as above
        await asyncio.sleep(LOOK_EVERY_S)
    if process.returncode:
        raise RuntimeError(f"the command failed with {process.returncode}")
