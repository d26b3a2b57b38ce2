"""How registry, queue and agent are run: commands and environments."""

import hashlib
import os
import re
import socket
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from towline.embedded.layout import Layout
from towline.embedded.processes import Ending
from towline.embedded.program import Program
from towline.errors import FailedPrecondition

__all__ = ["ENDING", "SERVICES", "choose_addresses", "programs", "require_extras"]

SERVICES: Final = ("registry", "queue", "agent")
ENDING: Final = Ending(grace=timedelta(seconds=15))

# Of the caller's environment the services see this much, so that what a shell happens to hold
# neither steers them nor leaks into containers.
_PASSED: Final = ("HOME", "LANG", "LC_ALL", "PATH", "TMPDIR", "TZ", "USER")
# The agent alone talks to others: the engine, git hosts, package indexes.
_PASSED_TO_AGENT: Final = (
    *("DOCKER_HOST", "DOCKER_CONFIG", "DOCKER_CERT_PATH", "DOCKER_TLS_VERIFY", "DOCKER_CONTEXT"),
    *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "SSH_AUTH_SOCK", "XDG_RUNTIME_DIR", "LD_LIBRARY_PATH"),
)
_AGENT_PREFIX: Final = "TOWLINE_AGENT_"

_MODULES: Final = (
    *("typer", "rich", "yaml", "grpc_health", "pydantic_settings", "sqlalchemy", "asyncpg", "alembic"),
    *("jsonschema", "obstore", "aiodocker", "pynvml"),
)


def require_extras() -> None:
    """Check that everything the services import is installed.

    Raises:
        FailedPrecondition: Something is not; reason EXTRA_MISSING.
    """
    missing = [module for module in _MODULES if find_spec(module) is None]
    if missing:
        raise FailedPrecondition(
            f"`towline up` needs packages that are not installed ({', '.join(missing)}); "
            "pip install 'towline[embedded]'",
            reason="EXTRA_MISSING",
        )


def choose_addresses(last: Mapping[str, str]) -> dict[str, str]:
    """Choose a loopback address for each service: the last one where it is still free, else a free one."""
    with ExitStack() as stack:
        return {name: _bind(stack, last.get(name)) for name in SERVICES}


def programs(layout: Layout, addresses: Mapping[str, str], database_url: str) -> dict[str, Program]:
    """Say how each service is run, in the order they start."""
    environments = {
        "registry": {
            "DATABASE_URL": database_url,
            "BLOB_URL": layout.objects.as_uri(),
            "SPOOL_DIR": str(layout.spool),
            "QUEUE_ADDRESS": addresses["queue"],
        },
        "queue": {
            "DATABASE_URL": database_url,
            "REGISTRY_ADDRESS": addresses["registry"],
        },
        "agent": {
            "DATA_DIR": str(layout.agent),
            "QUEUE_ADDRESS": addresses["queue"],
            "REGISTRY_ADDRESS": addresses["registry"],
        },
    }
    made = {}
    for name in SERVICES:
        file = layout.address_file(name)
        own = environments[name] | {"LISTEN": addresses[name], "ADDRESS_FILE": str(file)}
        made[name] = Program(
            name,
            # -P: a file in the current folder must not stand in for a module.
            [sys.executable, "-P", "-m", f"towline_{name}"],
            _inherited(name, layout) | {f"TOWLINE_{name.upper()}_{key}": value for key, value in own.items()},
            ENDING,
            _exists(file),
            address_file=file,
            may_leave=name == "agent",
        )
    return made


def _exists(file: Path) -> Callable[[int], bool]:
    return lambda _pid: file.exists()


def _inherited(service: str, layout: Layout) -> dict[str, str]:
    if service != "agent":
        return {key: value for key, value in os.environ.items() if key in _PASSED}
    given = {f"{_AGENT_PREFIX}AGENT": _agent_name(layout)} | {
        key: value
        for key, value in os.environ.items()
        if key in _PASSED or key in _PASSED_TO_AGENT or key.startswith(_AGENT_PREFIX)
    }
    # Where the machine's traffic is inspected, builds need the authority that the person's own tools use.
    bundle = os.environ.get("SSL_CERT_FILE")
    if bundle and Path(bundle).is_file():
        given.setdefault(f"{_AGENT_PREFIX}BUILD_CA_BUNDLE", bundle)
    return given


def _agent_name(layout: Layout) -> str:
    """Name the agent after host and folder.

    Agents know their containers by their own name, and two folders on one machine share an engine.
    """
    host = re.sub(r"[^A-Za-z0-9_.-]", "-", socket.gethostname()).strip("-.")[:100] or "agent"
    return f"{host}-{hashlib.sha256(os.fsencode(layout.root)).hexdigest()[:6]}"


def _bind(stack: ExitStack, last: str | None) -> str:
    """Bind a port until the stack is left, so that no two services get the same one."""
    probe = stack.enter_context(socket.socket())
    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        probe.bind(("127.0.0.1", int(last.rpartition(":")[2]) if last else 0))
    except OSError:
        probe.bind(("127.0.0.1", 0))
    return f"127.0.0.1:{probe.getsockname()[1]}"
