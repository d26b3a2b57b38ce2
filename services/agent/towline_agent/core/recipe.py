"""How an environment image is made: the files a throw-away container is given, and what is kept of it.

The container starts from the base image. Everything it needs to build with (uv, the index
settings with their credentials, the CA bundle, uv's cache) lies in volumes below /towline,
which are never part of an image; what it leaves on its own file system (/opt/venv and a user)
is committed as one layer. So no credential is ever in a layer, and no image is left behind
by a build that fails.
"""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from towline.v1 import jobs_pb2
from towline_agent.core.containers import BUILT_USER, LOG_CONFIG, WORKSPACE, towline_volume

__all__ = [
    "LABEL_BUILDER",
    "Indexes",
    "Redactor",
    "build_container",
    "build_files",
    "image_config",
    "python_version",
]

# Marks the throw-away container; images made from it carry it with an empty value.
LABEL_BUILDER: Final = "towline.builder"
_VENV: Final = "/opt/venv"

_INSTALL: Final = """\
#!/bin/sh
set -eu
export HOME=/towline/home TMPDIR=/towline/tmp
export UV_CACHE_DIR=/towline/cache UV_LINK_MODE=copy UV_NO_PROGRESS=1 UV_PYTHON_DOWNLOADS=never
export UV_CONFIG_FILE=/towline/uv.toml
if [ -f /towline/ca.pem ]; then export SSL_CERT_FILE=/towline/ca.pem; fi
uv=/towline/bin/uv
python3 /towline/user.py
$uv venv --python {python} {venv}
install() {{
    $uv pip install --python {venv} --compile-bytecode --requirements /towline/requirements.txt "$@"
}}
if [ -s /towline/requirements.txt ]; then
    {install}
fi
"""

# A complete list of exact pins is what a recorded environment looks like. pip lets people keep
# environments whose packages contradict each other; those are installed as they were recorded.
_PINNED: Final = """\
install || {
        echo "towline: the pinned requirements do not resolve; installing exactly what is listed" >&2
        install --no-deps
    }"""

_USER: Final = f"""\
import pathlib

def add(file, line, number):
    path = pathlib.Path(file)
    lines = path.read_text().splitlines() if path.exists() else []
    if not any(entry.split(":")[2:3] == [number] for entry in lines):
        path.write_text("\\n".join([*lines, line, ""]))

add("/etc/passwd", "towline:x:1000:1000::/home/towline:/bin/sh", "1000")
add("/etc/group", "towline:x:1000:", "1000")
import os
for folder in ("/home/towline", "{WORKSPACE}"):
    os.makedirs(folder, exist_ok=True)
    os.chown(folder, 1000, 1000)
"""


@dataclass(frozen=True)
class Indexes:
    """Package indexes of an agent, credentials and all."""

    default: str = ""
    """In place of PyPI; empty: PyPI."""
    extra: tuple[str, ...] = ()
    """Asked before the default one."""

    def urls(self, environment: jobs_pb2.PythonEnvironment) -> tuple[str, ...]:
        """Return all indexes of a build: the job's, the agent's, and last the default one."""
        return (*environment.extra_index_urls, *self.extra, self.default or "https://pypi.org/simple")


def python_version(environment: jobs_pb2.PythonEnvironment) -> str:
    """Return the interpreter as "X.Y"."""
    return ".".join(environment.version.split(".")[:2])


def build_files(environment: jobs_pb2.PythonEnvironment, indexes: Indexes) -> Mapping[str, bytes]:
    """Make the small files of a build, by their path in /towline."""
    requirements = [line.strip() for line in environment.requirements if line.strip()]
    pinned = all("==" in line or " @ " in line for line in requirements)
    *extra, default = indexes.urls(environment)
    # Strings of JSON are strings of TOML.
    toml = ['index-strategy = "unsafe-first-match"']
    toml += [f"[[index]]\nurl = {json.dumps(url)}" for url in extra]
    toml += [f"[[index]]\nurl = {json.dumps(default)}\ndefault = true"]
    script = _INSTALL.format(
        python=shlex.quote(python_version(environment)), venv=_VENV, install=_PINNED if pinned else "install"
    )
    return {
        "install": script.encode(),
        "user.py": _USER.encode(),
        "uv.toml": ("\n".join(toml) + "\n").encode(),
        "requirements.txt": "".join(f"{line}\n" for line in requirements).encode(),
    }


def build_container(base_image_id: str, builder: str, *, cache_volume: str, network: str) -> dict[str, Any]:
    """Make the body of the engine's "create container" for a build.

    Args:
        base_image_id: What to build on.
        builder: Value of LABEL_BUILDER, for cleaning up after a crash.
        cache_volume: Docker volume that keeps uv's downloads between builds; empty: none.
        network: Docker network of the build; empty: the engine's default bridge.
    """
    labels = {LABEL_BUILDER: builder}
    mounts = [towline_volume(labels)]
    if cache_volume:
        mounts.append({"Type": "volume", "Source": cache_volume, "Target": "/towline/cache"})
    host: dict[str, Any] = {
        "Init": True,
        "SecurityOpt": ["no-new-privileges"],
        "LogConfig": LOG_CONFIG,
        "Mounts": mounts,
    }
    if network:
        host["NetworkMode"] = network
    return {
        "Image": base_image_id,
        "User": "0:0",
        "WorkingDir": "/",
        "Entrypoint": ["/bin/sh", "/towline/install"],
        "Cmd": [],
        "Labels": labels,
        "HostConfig": host,
    }


def image_config(base_environment: Sequence[str]) -> dict[str, Any]:
    """Make the configuration of an environment or job image.

    Args:
        base_environment: "NAME=value" each, of the base image.
    """
    environment = dict(entry.partition("=")[::2] for entry in base_environment)
    path = environment.get("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    if f"{_VENV}/bin" not in path.split(":"):
        path = f"{_VENV}/bin:{path}"
    environment |= {"PATH": path, "VIRTUAL_ENV": _VENV}
    return {
        "Env": [f"{name}={value}" for name, value in environment.items()],
        "User": BUILT_USER,
        "WorkingDir": WORKSPACE,
        # Not null: an absent one would be taken from the throw-away container.
        "Entrypoint": [],
        "Cmd": ["python"],
        "Labels": {LABEL_BUILDER: ""},
    }


class Redactor:
    """Takes credentials out of a log, line by line, so that none is missed at the seam of two pieces."""

    def __init__(self, urls: Sequence[str]) -> None:
        logins = {url.partition("://")[2].partition("/")[0].rpartition("@")[0] for url in urls}
        words = {word for login in logins for word in (login, login.partition(":")[2]) if word}
        self._secrets = sorted((word.encode() for word in words), key=len, reverse=True)
        self._line = b""

    def feed(self, data: bytes) -> bytes:
        """Return what can be shown so far."""
        if not self._secrets:
            return data
        whole, newline, self._line = (self._line + data).rpartition(b"\n")
        return self._clean(whole + newline)

    def end(self) -> bytes:
        """Return the rest."""
        line, self._line = self._line, b""
        return self._clean(line)

    def _clean(self, text: bytes) -> bytes:
        for secret in self._secrets:
            text = text.replace(secret, b"****")
        return text
