"""How fast a folder moves: each step in turn, and the system's own tools for the same."""

import os
import shutil
import subprocess
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from bench.artifacts.trees import Tree, same
from towline.client import AsyncClient, Endpoints
from towline_testing.cut import cutting_proxy

__all__ = ["STEPS", "measure_round"]

STEPS: Final = ("cp", "sha256sum", "upload", "second upload", "download")


async def measure_round(registry: str, tree: Tree, folder: Path) -> dict[str, float]:
    """Take each step once, with a registry that has nothing yet.

    Args:
        registry: Its address.
        tree: What is moved; its pages are in memory for every step alike.
        folder: Where copies go; they are gone afterwards.

    Returns:
        Seconds by step, "bytes sent" by the second upload, and "identical": 1 if what came down is.
    """
    # The digests of an earlier round must not help.
    os.environ["TOWLINE_CACHE_DIR"] = str(folder / "cache")
    shutil.rmtree(folder / "cache", ignore_errors=True)
    copy, down = folder / "copy", folder / "down"
    found: dict[str, float] = {}

    async def step(name: str, work: Callable[[], Awaitable[object]]) -> None:
        os.sync()  # nobody pays for what the step before has left to be written
        began = time.perf_counter()
        await work()
        found[name] = time.perf_counter() - began

    async def cp() -> None:
        _run("cp", "-r", tree.root, copy)

    async def sha256sum() -> None:
        _run("find", tree.root, "-type", "f", "-exec", "sha256sum", "{}", "+")

    await step("cp", cp)
    shutil.rmtree(copy)
    await step("sha256sum", sha256sum)
    async with AsyncClient(Endpoints(registry, "127.0.0.1:1")) as client:
        await step("upload", lambda: client.artifacts.upload(tree.root, "bench", "dataset"))
        async with cutting_proxy(registry, []) as proxy:
            async with AsyncClient(Endpoints(proxy.address, "127.0.0.1:1")) as other:
                await step("second upload", lambda: other.artifacts.upload(tree.root, "second", "dataset"))
            found["bytes sent"] = proxy.sent
        await step("download", lambda: client.artifacts.download("bench", down))
    found["identical"] = float(same(tree.root, down))
    shutil.rmtree(down)
    return found


def _run(*command: str | Path) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
