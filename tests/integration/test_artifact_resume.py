"""Transfers whose client or whose registry is killed in the middle go on where they stopped."""

import filecmp
import os
import random
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from towline_testing.command import COMMAND
from towline_testing.cut import CuttingProxy, cutting_proxy
from towline_testing.postgres import PostgresServer
from towline_testing.registry import RegistryProcess, start_process
from towline_testing.waiting import eventually_async

MIB = 1024 * 1024
SMALL, SMALL_BYTES = 1500, 8192
LARGE_BYTES = 48 * MIB
SIZE = SMALL * SMALL_BYTES + LARGE_BYTES
# What is on its way when something is killed, and names and digests.
SLACK = 12 * MIB


class Place:
    """A registry that can be killed and started again, behind one address."""

    def __init__(self, database_url: str, folder: Path) -> None:
        self._database_url = database_url
        self._folder = folder
        self.process = self.start()

    def start(self) -> RegistryProcess:
        self.process = start_process(self._database_url, self._folder)
        return self.process


@pytest.fixture
def place(embedded_postgres: PostgresServer, tmp_path: Path) -> Iterator[Place]:
    database = f"resume_{uuid4().hex[:12]}"
    embedded_postgres.psql(f"CREATE DATABASE {database}")
    (tmp_path / "registry").mkdir()
    place = Place(embedded_postgres.url(database), tmp_path / "registry")
    try:
        yield place
    finally:
        place.process.stop()
        embedded_postgres.psql(f"DROP DATABASE {database} WITH (FORCE)")


@pytest.fixture
async def proxy(place: Place) -> AsyncIterator[CuttingProxy]:
    async with cutting_proxy(place.process.address, []) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = random.Random(0)
    root = tmp_path_factory.mktemp("tree")
    for number in range(SMALL):
        file = root / f"{number % 20}" / f"{number}"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(rng.randbytes(SMALL_BYTES))
    (root / "large").write_bytes(rng.randbytes(LARGE_BYTES))
    return root


@pytest.fixture
def start(proxy: CuttingProxy, tmp_path: Path) -> Callable[..., "subprocess.Popen[str]"]:
    """Start a command of `towline artifact`; each has an empty cache of digests."""

    def start(*arguments: str | Path) -> "subprocess.Popen[str]":
        shutil.rmtree(tmp_path / "cache", ignore_errors=True)
        environment = {
            "TOWLINE_REGISTRY_ADDRESS": proxy.address,
            "TOWLINE_QUEUE_ADDRESS": "127.0.0.1:1",
            "TOWLINE_CACHE_DIR": str(tmp_path / "cache"),
        }
        return subprocess.Popen(
            [*COMMAND, "artifact", *map(str, arguments)],
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


async def ended(process: "subprocess.Popen[str]") -> str:
    """Wait while the proxy works on, and give standard output."""

    async def over() -> bool:
        return process.poll() is not None

    await eventually_async(over, within=90)
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    return output


async def moved(count: Callable[[], int], size_bytes: int) -> None:
    async def enough() -> bool:
        return count() >= size_bytes

    await eventually_async(enough, within=60)


def same(one: Path, other: Path) -> bool:
    def files(root: Path) -> list[Path]:
        return sorted(path.relative_to(root) for path in root.rglob("*") if path.is_file())

    return files(one) == files(other) and all(
        filecmp.cmp(one / name, other / name, shallow=False) for name in files(one)
    )


# In the small files, and in the large one, which comes after them.
KILLED_AT = (5 * MIB, 30 * MIB)


@pytest.mark.parametrize("who", ["client", "registry"])
@pytest.mark.timeout(240)
async def test_an_upload_goes_on_after_kill_9(
    place: Place,
    proxy: CuttingProxy,
    tree: Path,
    tmp_path: Path,
    start: Callable[..., "subprocess.Popen[str]"],
    who: str,
) -> None:
    put = ("put", tree, "--name", "data", "--type", "dataset")
    uploading = start(*put)
    for killed_at in KILLED_AT:
        await moved(lambda: proxy.sent, killed_at)
        assert uploading.poll() is None
        if who == "client":
            uploading.kill()
            uploading.communicate()
            uploading = start(*put)
        else:
            place.process.kill()
            proxy.upstream = place.start().address
    assert (await ended(uploading)).startswith("stored data:v0 (1,501 files")
    assert proxy.sent < SIZE + SLACK * len(KILLED_AT), "what was safe is not sent again"
    await ended(start("get", "data", "--to", tmp_path / "out"))
    assert same(tree, tmp_path / "out")


@pytest.mark.parametrize("who", ["client", "registry"])
@pytest.mark.timeout(240)
async def test_a_download_goes_on_after_kill_9(
    place: Place,
    proxy: CuttingProxy,
    tree: Path,
    tmp_path: Path,
    start: Callable[..., "subprocess.Popen[str]"],
    who: str,
) -> None:
    await ended(start("put", tree, "--name", "data", "--type", "dataset"))
    before = proxy.received
    get = ("get", "data", "--to", tmp_path / "out")
    downloading = start(*get)
    for killed_at in KILLED_AT:
        await moved(lambda: proxy.received - before, killed_at)
        assert downloading.poll() is None
        if who == "client":
            downloading.kill()
            downloading.communicate()
            downloading = start(*get)
        else:
            place.process.kill()
            proxy.upstream = place.start().address
    await ended(downloading)
    assert proxy.received - before < SIZE + SLACK * len(KILLED_AT)
    assert same(tree, tmp_path / "out")
    assert not list((tmp_path / "out").rglob(".*"))


@pytest.mark.skipif(sys.platform == "win32", reason="there is no Ctrl-C to send")
async def test_ctrl_c_says_how_to_go_on(
    proxy: CuttingProxy, tree: Path, start: Callable[..., "subprocess.Popen[str]"]
) -> None:
    put = ("put", tree, "--name", "data", "--type", "dataset")
    uploading = start(*put)
    await moved(lambda: proxy.sent, 5 * MIB)
    uploading.send_signal(2)

    async def over() -> bool:
        return uploading.poll() is not None

    await eventually_async(over, within=30)
    _, errors = uploading.communicate()
    assert uploading.returncode == 130
    assert errors == "stopped; run the same `towline artifact put` again to go on from here\n"
    assert (await ended(start(*put))).startswith("stored data:v0")
    assert proxy.sent < SIZE + SLACK
