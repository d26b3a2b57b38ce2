"""Logins of container registries, as `docker login` leaves them."""

import asyncio
import base64
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from towline.errors import InvalidArgument
from towline.requests.images import HUB, registry_of

__all__ = ["Credentials", "default_file", "login_of"]

# What `docker login` calls Docker Hub, which references do not name.
_HUB: Final = "https://index.docker.io/v1/"
_HELPER_S: Final = 10.0


def default_file() -> Path:
    """Return where Docker's client keeps logins."""
    folder = os.environ.get("DOCKER_CONFIG")
    return (Path(folder) if folder else Path.home() / ".docker") / "config.json"


def login_of(reference: str) -> str:
    """Return what logins call the container registry of a reference: "host:port", or Docker Hub's URL."""
    registry = registry_of(reference)
    return _HUB if registry == HUB else registry


class Credentials:
    """Reads logins each time they are needed, so that a new one counts at once.

    Args:
        file: In the form of Docker's config.json: `auths`, `credHelpers` and `credsStore` are read. One that
            is not there has none.
    """

    def __init__(self, file: Path) -> None:
        self._file = file

    async def header(self, reference: str) -> str:
        """Return X-Registry-Auth for the registry of a reference; it names nobody where there is no login.

        Raises:
            InvalidArgument: The file is not what it should be, or its helper failed; the message names it.
        """
        login = await self._login(login_of(reference))
        return base64.urlsafe_b64encode(json.dumps(login).encode()).decode()

    async def _login(self, registry: str) -> Mapping[str, str]:
        config = await asyncio.to_thread(self._read)
        helper = self._table(config, "credHelpers").get(registry) or config.get("credsStore")
        if helper:
            return await self._ask(str(helper), registry)
        entry = self._table(self._table(config, "auths"), registry)
        if token := entry.get("identitytoken"):
            return {"identitytoken": token, "serveraddress": registry}
        if not (auth := entry.get("auth")):
            return {}
        try:
            user, colon, password = base64.b64decode(auth, validate=True).decode().partition(":")
        except (TypeError, ValueError):
            colon = ""
        if not colon:
            raise self._wrong(f"its login for {registry} is not base64 of user:password; log in again")
        return {"username": user, "password": password, "serveraddress": registry}

    def _read(self) -> Mapping[str, Any]:
        try:
            config = json.loads(self._file.read_bytes())
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise self._wrong(f"it cannot be read: {error}") from error
        if not isinstance(config, dict):
            raise self._wrong("it is no JSON object")
        return config

    def _table(self, config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
        found = config.get(name)
        if found is None:
            return {}
        if not isinstance(found, dict):
            raise self._wrong(f"its {name!r} is no JSON object")
        return found

    async def _ask(self, helper: str, registry: str) -> Mapping[str, str]:
        program = f"docker-credential-{helper}"
        try:
            process = await asyncio.create_subprocess_exec(
                program,
                "get",
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
            )
        except OSError as error:
            raise self._wrong(f"its helper {program} cannot be started: {error}") from error
        try:
            async with asyncio.timeout(_HELPER_S):
                answer, _ = await process.communicate(registry.encode())
        except TimeoutError:
            raise self._wrong(f"its helper {program} gives no answer") from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode:  # it has none for this registry, which is no error
            return {}
        try:
            found = json.loads(answer)
            user, secret = str(found["Username"]), str(found["Secret"])
        except (ValueError, KeyError, TypeError) as error:
            raise self._wrong(f"its helper {program} answers what is no login") from error
        if user == "<token>":
            return {"identitytoken": secret, "serveraddress": registry}
        return {"username": user, "password": secret, "serveraddress": registry}

    def _wrong(self, problem: str) -> InvalidArgument:
        return InvalidArgument.field("TOWLINE_AGENT_REGISTRY_LOGINS", f"{self._file}: {problem}")
