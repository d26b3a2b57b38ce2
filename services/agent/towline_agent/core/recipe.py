"""How an environment image is made: the files a throw-away container is given, and what is kept of it.

The container starts from the base image. Everything it needs to build with (uv, the index
settings with their credentials, the CA bundle, uv's cache) lies in volumes below /towline,
which are never part of an image; what it leaves on its own file system (/opt/venv and a user)
is committed as one layer. So no credential is ever in a layer, and no image is left behind
by a build that fails.

What is installed from the source tree (editable packages, for one) is added in the same way to the image that
has the tree, so that jobs with the same environment share its image.
"""

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote, urlsplit, urlunsplit

from towline.errors import InvalidArgument
from towline.v1 import jobs_pb2
from towline.v1.jobs_pb2 import LOCK_FORMAT_CONDA_ENVIRONMENT, LOCK_FORMAT_UNSPECIFIED
from towline_agent.core import repositories
from towline_agent.core.conda import Channels, read_environment
from towline_agent.core.containers import BUILT_USER, LOG_CONFIG, WORKSPACE, ImageFacts, towline_volume
from towline_agent.core.contents import CONTENTS, LIST_CONTENTS
from towline_agent.core.locks import Find, Locked, checked, read_lock
from towline_agent.core.tidying import TIDY

__all__ = [
    "LABEL_BUILDER",
    "Indexes",
    "base_config",
    "build_container",
    "build_files",
    "image_config",
    "locked_environment",
    "project_files",
    "python_version",
]

# Marks the throw-away container; images made from it carry it with an empty value.
LABEL_BUILDER: Final = "towline.builder"
_VENV: Final = "/opt/venv"
_PYTHON: Final = f"{_VENV}/bin/python"
_LIST_CONTENTS: Final = f"{_PYTHON} -I /towline/contents.py {CONTENTS}"
_WHEEL: Final = re.compile(
    r"[A-Za-z0-9][A-Za-z0-9._]*-[A-Za-z0-9._!+]+(-[0-9][A-Za-z0-9_.]*)?(-[A-Za-z0-9_.]+){3}\.whl"
)

_SETTINGS: Final = f"""\
#!/bin/sh
set -eu
export HOME=/towline/home TMPDIR=/towline/tmp
export UV_CACHE_DIR=/towline/cache UV_LINK_MODE=copy UV_NO_PROGRESS=1 UV_PYTHON_DOWNLOADS=never
export UV_CONFIG_FILE=/towline/uv.toml UV_PROJECT_ENVIRONMENT={_VENV} PYTHONDONTWRITEBYTECODE=1
if [ -f /towline/ca.pem ]; then export SSL_CERT_FILE=/towline/ca.pem; fi
uv=/towline/bin/uv
"""

_INSTALL: Final = f"$uv pip install --python {_VENV}"
# All of it is compiled, so once is enough.
_INSTALL_COMPILED: Final = f"{_INSTALL} --compile-bytecode"
_LISTED: Final = "--requirements /towline/requirements.txt"

# A list of exact pins that somebody wrote by hand may lack what they need. pip lets people keep
# environments whose packages contradict each other; those are installed as they were recorded.
_PINNED: Final = f"""\
{_INSTALL_COMPILED} {_LISTED} || {{
    echo "towline: the pinned requirements do not resolve; installing exactly what is listed" >&2
    {_INSTALL_COMPILED} --no-deps {_LISTED}
}}"""

# A base image need not have Python: what an environment is made with may be among its system packages.
_USER: Final = f"""\
known() {{ cut -d: -f3 "$1" 2>/dev/null | grep -qx 1000; }}
known /etc/passwd || echo "towline:x:1000:1000::/home/towline:/bin/sh" >>/etc/passwd
known /etc/group || echo "towline:x:1000:" >>/etc/group
mkdir -p /home/towline {WORKSPACE}
chown 1000:1000 /home/towline {WORKSPACE}
"""

# What was compiled of modules that are gone.
_ORPHANS: Final = f"""\
import os

for folder, _, files in os.walk("{_VENV}", topdown=False):
    around, name = os.path.split(folder)
    if name == "__pycache__":
        for file in files:
            if not os.path.exists(os.path.join(around, file.partition(".")[0] + ".py")):
                os.remove(os.path.join(folder, file))
        if not os.listdir(folder):
            os.rmdir(folder)
"""


@dataclass(frozen=True)
class Indexes:
    """Package indexes of an agent, credentials and all."""

    default: str = ""
    """In place of PyPI; empty: PyPI."""
    extra: tuple[str, ...] = ()
    """Asked before the default one."""

    def urls(self, environment: jobs_pb2.PythonEnvironment) -> tuple[str, ...]:
        """Return all indexes of a build: the job's, the agent's, and last the default one.

        Those of a job come without credentials: where the agent has a login for their server, they get it.
        """
        own = (*self.extra, self.default or "https://pypi.org/simple")
        logins = {_server(url): urlsplit(url).netloc for url in own if "@" in urlsplit(url).netloc}
        asked = (
            urlunsplit(urlsplit(url)._replace(netloc=logins.get(_server(url), urlsplit(url).netloc)))
            for url in environment.extra_index_urls
        )
        return (*asked, *own)


def _server(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc.rpartition("@")[2]


def python_version(environment: jobs_pb2.PythonEnvironment) -> str:
    """Return the interpreter as "X.Y"."""
    return ".".join(environment.version.split(".")[:2])


def build_files(
    environment: jobs_pb2.PythonEnvironment,
    indexes: Indexes,
    locked: Locked | None = None,
    *,
    onto_another: bool = False,
) -> Mapping[str, bytes]:
    """Make the small files of a build of an environment, by their path in /towline.

    Args:
        environment: What is to be installed.
        indexes: Where it comes from.
        locked: The environment's lock, if it is one that is installed in place of its requirements.
        onto_another: Whether the build starts from another environment, see core.ancestors.
    """
    commits = repositories.find(environment.requirements)
    fetched = {each.requirement: each.local(number) for number, each in enumerate(commits)}
    listed = [line.strip() for line in environment.requirements if line.strip()]
    lines = [fetched.get(line, line) for line in listed]
    lines += [_wheel_line(wheel) for wheel in environment.wheels]
    makes_prefix = locked is not None and locked.makes_prefix
    installs_listed = locked is None or makes_prefix
    steps = [_USER]
    if not makes_prefix:
        steps.append(f"$uv venv --python {shlex.quote(python_version(environment))} {_VENV}")
    more: dict[str, bytes] = {}
    if onto_another:
        steps = [f"$uv pip sync --python {_VENV} --compile-bytecode /towline/requirements.txt"]
        steps.append(f"{_PYTHON} /towline/orphans.py")
        more = {"orphans.py": _ORPHANS.encode()}
    elif locked is not None:
        steps.append(locked.fetch)
    if lines and installs_listed and not onto_another:
        steps.append(_install_listed(environment, lines))
    if commits and installs_listed:
        steps.append(f"{_PYTHON} /towline/origins.py")
        more |= {"origins.py": repositories.ORIGINS.encode(), "origins.json": repositories.origins(commits)}
    steps.append(_LIST_CONTENTS)
    more |= {f"lock/{path}": content for path, content in (locked.files if locked else {}).items()}
    return {
        "install": "\n".join([_SETTINGS, *steps, ""]).encode(),
        "uv.toml": _uv_settings(indexes.urls(environment)),
        "requirements.txt": "".join(f"{line}\n" for line in lines).encode(),
        "contents.py": LIST_CONTENTS.encode(),
        **more,
    }


def project_files(
    environment: jobs_pb2.PythonEnvironment, indexes: Indexes, locked: Locked | None = None
) -> Mapping[str, bytes] | None:
    """Make the small files of an installation from the source tree; None where nothing of it is installed."""
    steps = [locked.project] if locked and locked.project else []
    if environment.editables:
        folders = (shlex.quote(f"./{folder}") for folder in environment.editables)
        alone = " --no-deps" if environment.complete else ""
        steps.append(f"{_INSTALL}{alone}" + "".join(f" --editable {folder}" for folder in folders))
    if not steps:
        return None
    tidy = f"{_PYTHON} /towline/tidy.py"
    inside = "\n".join(f"(cd {WORKSPACE} && {step})" for step in steps)
    return {
        "install": f"{_SETTINGS}{tidy} before\n{inside}\n{tidy} after\n{_LIST_CONTENTS}\n".encode(),
        "contents.py": LIST_CONTENTS.encode(),
        "tidy.py": TIDY.encode(),
        "uv.toml": _uv_settings(indexes.urls(environment)),
    }


def locked_environment(
    environment: jobs_pb2.PythonEnvironment, find: Find, channels: Channels
) -> Locked | None:
    """Plan the installation of an environment by its lock; None where its requirements are what is installed.

    Args:
        environment: What is to be installed.
        find: See `read_lock`.
        channels: Where packages of conda come from.

    Raises:
        InvalidArgument: See `read_lock`, as for NotFound.
        NotFound: See there.
    """
    lock = environment.lock
    if lock.format == LOCK_FORMAT_UNSPECIFIED:
        return None
    if lock.format == LOCK_FORMAT_CONDA_ENVIRONMENT:
        # Its pip section is among the requirements.
        return read_environment(lock.path, checked(lock, find), python_version(environment), channels)
    return read_lock(lock, find, _INSTALL)


def _install_listed(environment: jobs_pb2.PythonEnvironment, lines: Sequence[str]) -> str:
    if environment.complete:
        return f"{_INSTALL_COMPILED} --no-deps {_LISTED}"
    pinned = all("==" in line or " @ " in line for line in lines)
    return _PINNED if pinned else f"{_INSTALL_COMPILED} {_LISTED}"


def _wheel_line(wheel: jobs_pb2.Wheel) -> str:
    """Write a wheel as a requirement; pip and uv check it, and note that it came from a file."""
    if not _WHEEL.fullmatch(wheel.filename):
        raise InvalidArgument(
            f"{wheel.filename[:200]!r} is no file name of a wheel; record the job again",
            reason="INVALID_WHEEL",
        )
    name = wheel.filename.partition("-")[0]
    sha256 = wheel.digest.removeprefix("sha256:")
    return f"{name} @ file:///towline/wheels/{quote(wheel.filename)}#sha256={sha256}"


def _uv_settings(urls: Sequence[str]) -> bytes:
    *extra, default = urls
    # Strings of JSON are strings of TOML.
    toml = ['index-strategy = "unsafe-first-match"']
    toml += [f"[[index]]\nurl = {json.dumps(url)}" for url in extra]
    toml += [f"[[index]]\nurl = {json.dumps(default)}\ndefault = true"]
    return ("\n".join(toml) + "\n").encode()


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


def base_config(base: ImageFacts, labels: Mapping[str, str]) -> dict[str, Any]:
    """Make the configuration of a base image with system packages: it is as it was, but for them.

    Args:
        base: The image without them.
        labels: More labels.
    """
    return {
        "Env": list(base.environment),
        "User": base.user,
        # Not null: an absent one would be taken from the throw-away container.
        "WorkingDir": "/",
        "Entrypoint": [],
        "Cmd": ["/bin/sh"],
        "Labels": {LABEL_BUILDER: ""} | dict(labels),
    }


def image_config(base_environment: Sequence[str], labels: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Make the configuration of an environment or job image.

    Args:
        base_environment: "NAME=value" each, of the base image.
        labels: More labels.
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
        "Labels": {LABEL_BUILDER: ""} | dict(labels or {}),
    }
