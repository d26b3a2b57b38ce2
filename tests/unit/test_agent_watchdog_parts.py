"""The watchdog's parts: which processes are a container's, its lock, its log, its size."""

import fcntl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from towline_agent.watchdog.lock import held, holder, taken
from towline_agent.watchdog.processes import first_of, is_in, names, processes_of

ID, OTHER = "a" * 64, "b" * 64


@pytest.mark.parametrize(
    "cgroup",
    [
        f"0::/docker/{ID}\n",
        f"0::/system.slice/docker-{ID}.scope\n",
        f"0::/system.slice/docker-{ID}.scope/init\n",
        f"0::/../{ID}\n",
        f"12:pids:/docker/{ID}\n11:memory:/docker/{ID}\n0::/\n",
        f"1:name=systemd:/a:b/docker/{ID}\n",
    ],
)
def test_processes_of_the_container(cgroup: str) -> None:
    assert names(cgroup, ID)
    assert not names(cgroup, OTHER)


@pytest.mark.parametrize(
    "cgroup", ["", "0::/\n", f"0::/docker/{ID}x\n", f"0::/docker/x{ID}\n", f"0::/x{ID[:63]}\n"]
)
def test_other_processes(cgroup: str) -> None:
    assert not names(cgroup, ID)


def test_less_than_a_full_id_names_nothing() -> None:
    assert not names("0::/docker/\n", "")
    assert not names("0::/docker/aaaa\n", "aaaa")


def test_processes_are_found_by_their_group(tmp_path: Path) -> None:
    for pid, cgroup, inside, state in [
        (10, ID, "7", "S"),
        (11, ID, "1", "S"),
        (12, OTHER, "1", "S"),
        (13, ID, "9", "Z"),
    ]:
        folder = tmp_path / str(pid)
        folder.mkdir()
        (folder / "cgroup").write_text(f"0::/docker/{cgroup}\n")
        (folder / "status").write_text(f"Name:\tx\nState:\t{state} (x)\nNSpid:\t{pid}\t{inside}\n")
    (tmp_path / "14").mkdir()  # ends while it is looked at
    (tmp_path / "self").mkdir()
    assert sorted(processes_of(ID, tmp_path)) == [10, 11]
    assert first_of([10, 11], tmp_path) == [11]
    assert first_of([10], tmp_path) == [10]
    assert not is_in(14, ID, tmp_path)


@contextmanager
def locking(file: Path) -> Iterator[None]:
    with file.open("a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def test_a_lock_is_held_or_not(tmp_path: Path) -> None:
    file = tmp_path / "x.lock"
    assert not held(file)
    with locking(file):
        assert held(file)
    assert not held(file)


def test_who_holds_the_lock_must_be_a_watchdog(tmp_path: Path) -> None:
    """The file may name a pid that is another program's by now; nobody signals that."""
    file = tmp_path / "watchdog.lock"
    with taken(file, "1.0", "unix:///x"):
        assert held(file)
        assert holder(file) is None  # this is pytest
    assert holder(file) is None


def test_the_watchdog_is_small() -> None:
    program = (
        "import sys; before = set(sys.modules); import towline_agent.watchdog.__main__\n"
        "new = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "print(*sorted(new - sys.stdlib_module_names - {'towline_agent'}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_the_log_is_bounded(tmp_path: Path) -> None:
    program = (
        "from pathlib import Path; from towline_agent.watchdog.log import Log\n"
        f"log = Log(Path({str(tmp_path / 'watchdog.log')!r}))\n"
        "for number in range(20_000): log(f'{number} ' + 'x' * 50)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
    sizes = {file.name: file.stat().st_size for file in tmp_path.iterdir()}
    assert set(sizes) == {"watchdog.log", "watchdog.log.1"}
    assert all(size < 300_000 for size in sizes.values())
    assert "19999 x" in (tmp_path / "watchdog.log").read_text()
