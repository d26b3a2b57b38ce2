"""A Docker Engine of a test's own, to be killed and started again while the machine's lives on."""

import json
import os
import select
import shutil
import signal
import subprocess
import tarfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from http.client import HTTPConnection, HTTPException
from io import BytesIO
from pathlib import Path
from socket import AF_UNIX, SOCK_STREAM, socket
from typing import Any, Final
from urllib.parse import quote

from towline_testing.history import Died, Event, Started
from towline_testing.waiting import eventually

IMAGE: Final = "towline/chaos:1"
_BUSYBOX: Final = Path("/bin/busybox")
_PATH: Final = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
_UP_WITHIN_S: Final = 40.0


class PrivateEngine:
    """dockerd with its own containerd, data, socket and pid file, all below one folder; no network.

    GPUs can be asked for: where Docker would run NVIDIA's hook it runs one that does nothing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process: subprocess.Popen[bytes] | None = None
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        (folder / "bin").mkdir()
        shutil.copy("/bin/true", folder / "bin" / "nvidia-container-runtime-hook")

    @property
    def socket(self) -> Path:
        return self.folder / "d.sock"

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"

    def start(self, *, live_restore: bool = False) -> None:
        """Start it and wait until it answers; containers outlive its end only with `live_restore`."""
        (self.folder / "d.pid").unlink(missing_ok=True)
        command = [
            "dockerd",
            *("--data-root", self.folder / "data", "--exec-root", self.folder / "exec"),
            *("--host", self.url, "--pidfile", self.folder / "d.pid"),
            *("--config-file", self.folder / "config.json"),
            *("--bridge=none", "--iptables=false", "--ip-forward=false", "--shutdown-timeout=3"),
            *(["--live-restore"] if live_restore else []),
        ]
        path = shutil.which("dockerd", path=_PATH)
        assert path, "dockerd is not installed"
        with (self.folder / "dockerd.log").open("ab") as log:
            self.process = subprocess.Popen(
                # In a network of its own: `--bridge=none` deletes the docker0 that it finds.
                ["unshare", "--net", path, *command[1:]],
                env=os.environ | {"PATH": f"{self.folder / 'bin'}:{_PATH}"},
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        eventually(lambda: self._answers() or self.process.poll() is not None, within=_UP_WITHIN_S, every=0.1)
        assert self.process.poll() is None, (self.folder / "dockerd.log").read_text()[-3000:]

    def kill(self) -> None:
        """End it as a crash does: its containerd goes with it, the containers' shims stay."""
        assert self.process
        file = self.folder / "exec" / "containerd" / "containerd.pid"
        containerd = int(file.read_text()) if file.exists() else 0
        self.process.kill()
        self.process.wait()
        # A dockerd that starts while its old containerd is dying, or a zombie, would wait for that one.
        eventually(lambda: not (containerd and Path(f"/proc/{containerd}/exe").exists()))
        file.unlink(missing_ok=True)

    def stop(self) -> None:
        """End it in order."""
        assert self.process
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.kill()

    def clear(self) -> None:
        """Remove every container and volume."""
        if found := self.docker("ps", "--all", "--quiet").split():
            self.docker("rm", "--force", "--volumes", *found)
        if left := self.docker("volume", "ls", "--quiet").split():
            self.docker("volume", "rm", "--force", *left)

    def close(self) -> None:
        """End it with all that it has started, and unmount what it has mounted."""
        if self.process is not None and self.process.poll() is None:
            with suppress(AssertionError):
                self.clear()
            self.stop()
        for pid in processes_of(self.folder):
            os.kill(pid, signal.SIGKILL)
        mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
        for mount in sorted((one for one in mounts if Path(one).is_relative_to(self.folder)), reverse=True):
            subprocess.run(["umount", "--lazy", mount], capture_output=True, check=False)

    def docker(self, *arguments: str, timeout: float = 60) -> str:
        """Run the docker client and return what it prints."""
        done = subprocess.run(
            ["docker", "--host", self.url, *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
        )
        assert done.returncode == 0, f"docker {' '.join(arguments)}: {done.stderr}"
        return done.stdout.strip()

    def make_image(self) -> None:
        """Make an image of one static busybox: a shell, and no distribution."""
        buffer = BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            archive.add(_BUSYBOX, "bin/busybox")
            names = subprocess.check_output([_BUSYBOX, "--list"], text=True).split()
            for name in names:
                if name != "busybox":
                    link = tarfile.TarInfo(f"bin/{name}")
                    link.type, link.linkname = tarfile.SYMTYPE, "busybox"
                    archive.addfile(link)
            for folder in ("tmp", "towline"):
                made = tarfile.TarInfo(folder)
                made.type, made.mode = tarfile.DIRTYPE, 0o777
                archive.addfile(made)
        subprocess.run(
            ["docker", "--host", self.url, "import", "-", IMAGE],
            input=buffer.getvalue(),
            check=True,
            stdout=subprocess.DEVNULL,
        )

    def containers(self, *, run: str = "", running: bool = False) -> list[str]:
        """Return ids of containers of runs, ended ones too unless `running`."""
        label = f"label=towline.run={run}" if run else "label=towline.run"
        everything = [] if running else ["--all"]
        return self.docker("ps", *everything, "--no-trunc", "--quiet", "--filter", label).split()

    def leftovers(self, agents: int = 0) -> list[str]:
        """Name every container, volume and network that is there beside the engine's own.

        Each of so many agents may have a volume ready for its next run.
        """
        spares = self.docker("volume", "ls", "--quiet", "--filter", "label=towline.spare").split()
        others = set(self.docker("volume", "ls", "--quiet").split()) - set(spares)
        found = [f"container {name}" for name in self.docker("ps", "-a", "--format", "{{.Names}}").split()]
        found += [f"volume {name}" for name in [*sorted(others), *spares[agents:]]]
        networks = self.docker("network", "ls", "--format", "{{.Name}}").split()
        return found + [f"network {name}" for name in networks if name not in {"none", "host", "bridge"}]

    def get(self, path: str, timeout: float | None = 10) -> Any:
        """Ask the API; returns the open response."""
        connection = _UnixConnection(self.socket, timeout)
        connection.request("GET", path)
        return connection.getresponse()

    def _answers(self) -> bool:
        try:
            with self.get("/_ping") as response:
                return bool(response.status == 200)
        except (OSError, HTTPException):
            return False


class _UnixConnection(HTTPConnection):
    def __init__(self, path: Path, timeout: float | None) -> None:
        super().__init__("engine", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket(AF_UNIX, SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class ContainerWatch:
    """Notes when containers of runs start and die, as the engine's own event stream says (ns of its clock).

    While the engine is away nobody says so; then the end of the container's first process counts, which the
    kernel tells (a pidfd), and what the engine remembers of a container once it is back.
    """

    def __init__(self, engine: PrivateEngine) -> None:
        self._engine = engine
        self._starts: dict[str, Started] = {}
        self._deaths: dict[str, Died] = {}
        self._lock = threading.Lock()
        self._stopping = False
        self._since = time.time()
        self._response: Any = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def events(self) -> list[Event]:
        """Return all that was noted, by time."""
        with self._lock:
            found: list[Event] = [*self._starts.values(), *self._deaths.values()]
        return sorted(found, key=lambda event: event.at)

    def close(self) -> None:
        self._stopping = True

    def _run(self) -> None:
        while not self._stopping:
            try:
                for event in self._follow():
                    self._note(event)
            except (OSError, HTTPException, ValueError):
                time.sleep(0.05)

    def _follow(self) -> Iterator[dict[str, Any]]:
        filters = quote(json.dumps({"type": ["container"], "event": ["start", "die"]}))
        path = f"/events?since={self._since:.9f}&filters={filters}"
        with self._engine.get(path, timeout=1.0) as response:
            self._look()
            while not self._stopping:
                try:
                    line = response.readline()
                except TimeoutError:
                    # http.client cannot go on after a timeout; the stream is opened anew where it stood.
                    return
                if not line:
                    return
                yield json.loads(line)

    def _note(self, event: dict[str, Any]) -> None:
        labels, container = event["Actor"]["Attributes"], event["Actor"]["ID"]
        at = event["timeNano"] / 1e9
        self._since = max(self._since, at)
        if "towline.run" not in labels:
            return
        key = (labels["towline.run"], int(labels["towline.epoch"]), container)
        if event["Action"] == "start":
            self._started(Started(at, *key))
        else:
            self._died(Died(at, *key))

    def _look(self) -> None:
        """Note what containers tell of themselves: those that started or died while nobody listened."""
        filters = quote(json.dumps({"label": ["towline.run"]}))
        with self._engine.get(f"/containers/json?all=1&filters={filters}") as response:
            present = json.load(response)
        for item in present:
            container = item["Id"]
            if container in self._starts and container in self._deaths:
                continue
            with self._engine.get(f"/containers/{container}/json") as response:
                if response.status != 200:
                    continue
                state = json.load(response)["State"]
            key = (item["Labels"]["towline.run"], int(item["Labels"]["towline.epoch"]), container)
            if container not in self._starts and (began := _seconds(state["StartedAt"])):
                self._started(Started(began, *key))
            if not state["Running"] and (over := _seconds(state["FinishedAt"])):
                self._died(Died(over, *key))

    def _started(self, event: Started) -> None:
        with self._lock:
            if event.container in self._starts:
                return
            self._starts[event.container] = event
        try:
            with self._engine.get(f"/containers/{event.container}/json") as response:
                pid = json.load(response)["State"]["Pid"] if response.status == 200 else 0
            descriptor = os.pidfd_open(pid) if pid else None
        except (OSError, HTTPException, ValueError):
            return
        if descriptor is not None:
            threading.Thread(target=self._outlive, args=(event, descriptor), daemon=True).start()

    def _outlive(self, event: Started, descriptor: int) -> None:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        poll.poll()
        at = time.time()
        os.close(descriptor)
        # The engine's own word comes within moments, and is more exact.
        time.sleep(1.0)
        self._died(Died(at, event.run, event.epoch, event.container))

    def _died(self, event: Died) -> None:
        with self._lock:
            self._deaths.setdefault(event.container, event)


def processes_of(folder: Path) -> list[int]:
    """Return the pids of processes whose command line names something below a folder."""
    wanted, found = os.fsencode(folder), []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal() or int(entry.name) == os.getpid():
            continue
        try:
            command = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if wanted + b"/" in command or command.endswith(wanted + b"\0"):
            found.append(int(entry.name))
    return found


def _seconds(text: str) -> float:
    """Read a moment as the engine writes it; 0: never."""
    if text.startswith("0001"):
        return 0.0
    whole, _, fraction = text.rstrip("Z").partition(".")
    moment = datetime.fromisoformat(whole).replace(tzinfo=UTC).timestamp()
    return moment + float(f"0.{fraction}" if fraction else 0)
