"""Docker Engines of their own, beside the machine's: the nodes of a fleet, in tests and benchmarks."""

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

__all__ = ["engines"]

START_S: Final = 60.0
# The daemon is not on everybody's PATH.
PATH: Final = os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/sbin"])


@contextmanager
def engines(count: int, image: str) -> Iterator[list[str]]:
    """Run engines that share nothing, each with one image of the machine's own; give their URLs.

    Containers are to use the machine's own network.

    Raises:
        RuntimeError: One does not start; it says what it logged.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="towline-engines-")))
        bridges = [stack.enter_context(_bridge(number)) for number in range(count)]
        urls = [stack.enter_context(_engine(folder / bridge, bridge)) for bridge in bridges]
        saved = folder / "image.tar"
        subprocess.run(["docker", "save", "--output", saved, image], check=True)
        for url in urls:
            subprocess.run(
                ["docker", "--host", url, "load", "--quiet", "--input", saved], check=True, stdout=2
            )
        saved.unlink()
        yield urls


@contextmanager
def _bridge(number: int) -> Iterator[str]:
    """Make a bridge for one engine: one that is told to have none takes that of the machine's engine away."""
    name = f"tl{os.getpid()}-{number}"  # 15 characters at most
    subprocess.run(["ip", "link", "add", name, "type", "bridge"], check=True)
    try:
        subprocess.run(["ip", "address", "add", f"10.213.{number}.1/24", "dev", name], check=True)
        yield name
    finally:
        subprocess.run(["ip", "link", "delete", name], check=True)


@contextmanager
def _engine(folder: Path, bridge: str) -> Iterator[str]:
    folder.mkdir()
    url, log = f"unix://{folder}/docker.sock", folder / "log"
    options = {
        "data-root": folder / "data",
        "exec-root": folder / "exec",
        "pidfile": folder / "pid",
        "host": url,
        "bridge": bridge,
        "iptables": "false",
    }
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["dockerd", *(f"--{name}={value}" for name, value in options.items())],
            env=os.environ | {"PATH": PATH},
            stdout=output,
            stderr=output,
            start_new_session=True,  # a Ctrl-C is for this program, which then ends it in order
        )
    try:
        _wait(process, url, log)
        yield url
    finally:
        process.terminate()
        process.wait()
        # dockerd leaves the name of its network namespace mounted.
        for name in (folder / "exec" / "netns").glob("*"):
            subprocess.run(["umount", name], check=True)


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    until = time.monotonic() + START_S
    while subprocess.run(["docker", "--host", url, "version"], capture_output=True, check=False).returncode:
        if process.poll() is not None or time.monotonic() > until:
            raise RuntimeError(f"an engine did not start:\n{log.read_text(errors='replace')[-4000:]}")
        time.sleep(0.1)
