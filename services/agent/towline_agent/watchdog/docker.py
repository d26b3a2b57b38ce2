"""The little of Docker's API that a watchdog needs, over a connection for each call."""

import http.client
import json
import os
import socket
import ssl
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlsplit

__all__ = ["Docker", "Found", "Silent"]

_ANSWER_S: Final = 2.0
_REST_S: Final = 5.0
_LARGEST_ANSWER: Final = 4 * 2**20


class Silent(Exception):
    """The engine does not answer, or not with yes or no."""


@dataclass(frozen=True)
class Found:
    """A container as the engine tells."""

    id: str
    running: bool
    pid: int
    """Its first process as the engine sees it; 0: none."""


class Docker:
    """Docker's engine.

    Args:
        url: "unix:///path", "tcp://host:port" or "https://host:port"; TLS as DOCKER_TLS_VERIFY and
            DOCKER_CERT_PATH say. Any other is never answered.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._rests_until = 0.0

    def inspect(self, name: str) -> Found | None:
        """Return a container by id or name; None: there is none.

        Raises:
            Silent: The engine does not answer.
        """
        status, body = self._call("GET", f"/containers/{quote(name)}/json")
        if status == 404:
            return None
        if status != 200:
            raise Silent(f"the engine answered {status}")
        try:
            read = json.loads(body)
            state = read["State"]
            return Found(str(read["Id"]), bool(state["Running"]), int(state["Pid"]))
        except (ValueError, KeyError, TypeError) as error:
            raise Silent(f"the engine's answer makes no sense: {error!r}") from error

    def kill(self, container: str, signal: str) -> None:
        """Send a signal; a container that does not run, or is not there, is left so.

        Raises:
            Silent: The engine does not answer, or cannot do it.
        """
        status, body = self._call("POST", f"/containers/{quote(container)}/kill?signal={quote(signal)}")
        if status not in (204, 404, 409):
            raise Silent(f"the engine answered {status}: {body[:200].decode(errors='replace').strip()}")

    def _call(self, method: str, path: str) -> tuple[int, bytes]:
        # One that hangs must not hold up the signals for all other containers, a timeout each.
        if time.monotonic() < self._rests_until:
            raise Silent("the engine did not answer just now")
        try:
            connection = self._connection()
            try:
                connection.request(method, path, headers={"Host": "docker"})
                answer = connection.getresponse()
                return answer.status, answer.read(_LARGEST_ANSWER)
            finally:
                connection.close()
        except TimeoutError as error:
            self._rests_until = time.monotonic() + _REST_S
            raise Silent(f"the engine has not answered within {_ANSWER_S:.0f} s") from error
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise Silent(f"the engine does not answer: {error}") from error

    def _connection(self) -> http.client.HTTPConnection:
        url = urlsplit(self._url)
        if url.scheme == "unix":
            return _UnixConnection(url.path)
        if url.scheme not in ("tcp", "http", "https"):
            raise ValueError(f"{self._url} cannot be reached from here")
        where = url.hostname or "localhost"
        if url.scheme == "https" or os.environ.get("DOCKER_TLS_VERIFY", "0") == "1":
            return http.client.HTTPSConnection(
                where, url.port or 2376, timeout=_ANSWER_S, context=_tls(os.environ.get("DOCKER_CERT_PATH"))
            )
        return http.client.HTTPConnection(where, url.port or 2375, timeout=_ANSWER_S)


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a socket in the file system."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=_ANSWER_S)
        self._path = path

    def connect(self) -> None:
        self.sock: Any = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(_ANSWER_S)
        self.sock.connect(self._path)


def _tls(folder: str | None) -> ssl.SSLContext:
    if not folder:
        return ssl.create_default_context()
    context = ssl.create_default_context(cafile=str(Path(folder) / "ca.pem"))
    context.load_cert_chain(Path(folder) / "cert.pem", Path(folder) / "key.pem")
    return context
