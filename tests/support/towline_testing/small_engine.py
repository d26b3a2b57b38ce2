"""A Docker Engine of a test's own, on a small disk that it may fill."""

import os
import subprocess
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from towline_testing.waiting import eventually

_ENVIRONMENT = os.environ | {"PATH": os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/sbin"])}


@dataclass
class SmallEngine:
    """An engine, and the disk that its data are on."""

    url: str
    disk: Path

    def docker(self, *arguments: str, given: bytes | None = None) -> str:
        """Run the docker client and return what it prints."""
        done = subprocess.run(
            ["docker", "--host", self.url, *arguments], input=given, capture_output=True, check=False
        )
        assert done.returncode == 0, f"docker {' '.join(arguments)}: {done.stderr.decode()}"
        return done.stdout.decode().strip()

    def image(self, name: str, mebibytes: int = 0, labels: Mapping[str, str] | None = None) -> str:
        """Make an image of nothing but one file of that size; returns its id."""
        changes = [f"--change=LABEL {key}={value}" for key, value in (labels or {}).items()]
        return self.docker("import", *changes, "-", name, given=_tar({name: mebibytes}))

    def onto(self, image: str, name: str, mebibytes: int) -> str:
        """Make an image of another one and a file of that size more; returns its id."""
        container = self.docker("create", image, "nothing")
        self.docker("cp", "-", f"{container}:/", given=_tar({f"{name}-file": mebibytes}))
        made = self.docker("commit", container, name)
        self.docker("rm", container)
        return made

    def names(self) -> set[str]:
        """Return the names of all images."""
        return set(self.docker("images", "--format", "{{.Repository}}:{{.Tag}}").split())

    def fill(self, leaving: int) -> None:
        """Take all room on the disk but so many mebibytes."""
        has = os.statvfs(self.disk)
        rest = has.f_bavail * has.f_frsize - leaving * 2**20
        file = self.disk / "filled"
        with file.open("ab") as stream:
            os.posix_fallocate(stream.fileno(), file.stat().st_size, rest)

    def empty(self) -> None:
        """Give back what was taken."""
        (self.disk / "filled").unlink()


@contextmanager
def small_engine(folder: Path, mebibytes: int) -> Iterator[SmallEngine]:
    """Run an engine on a disk of that size, a file in the folder.

    It gets a bridge of its own: told to have none, it would take away that of the machine's engine.
    """
    disk, url = folder / "disk", f"unix://{folder}/docker.sock"
    disk.mkdir()
    with (folder / "disk.img").open("wb") as file:
        file.truncate(mebibytes * 2**20)
    with ExitStack() as stack:
        _run("mkfs.ext4", "-q", "-m", "0", file.name)
        _run("mount", "-o", "loop", file.name, str(disk))
        stack.callback(_run, "umount", str(disk))
        bridge, number = f"towline-{os.getpid()}", os.getpid() % 250
        _run("ip", "link", "add", bridge, "type", "bridge")
        stack.callback(_run, "ip", "link", "delete", bridge)
        _run("ip", "address", "add", f"10.214.{number}.1/24", "dev", bridge)
        options = {
            "data-root": disk / "data",
            "exec-root": folder / "exec",
            "pidfile": folder / "pid",
            "host": url,
            "bridge": bridge,
            "iptables": "false",
        }
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                ["dockerd", *(f"--{name}={value}" for name, value in options.items())],
                env=_ENVIRONMENT,
                stdout=log,
                stderr=log,
            )
        stack.callback(_end, process, folder)
        eventually(lambda: _answers(url))
        yield SmallEngine(url, disk)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, env=_ENVIRONMENT)


def _answers(url: str) -> bool:
    asked = subprocess.run(["docker", "--host", url, "version"], capture_output=True, check=False)
    return asked.returncode == 0


def _end(process: subprocess.Popen[bytes], folder: Path) -> None:
    process.terminate()
    process.wait()
    # dockerd leaves the name of its network namespace mounted.
    for name in (folder / "exec" / "netns").glob("*"):
        _run("umount", str(name))


def _tar(files: dict[str, int]) -> bytes:
    buffer = BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, mebibytes in files.items():
            member = tarfile.TarInfo(name.replace("/", "-").replace(":", "-"))
            member.size = mebibytes * 2**20
            archive.addfile(member, BytesIO(os.urandom(member.size)))
    return buffer.getvalue()
