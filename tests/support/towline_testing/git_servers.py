"""Servers of git repositories."""

import base64
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from towline_testing.ports import free_port
from towline_testing.waiting import eventually


@contextmanager
def git_daemon(folder: Path) -> Iterator[str]:
    """Serve all repositories in a folder; gives the URL that their paths follow."""
    port = free_port()
    command = ("git", "daemon", "--reuseaddr", "--export-all", "--listen=127.0.0.1", f"--port={port}")
    daemon = subprocess.Popen(
        [*command, f"--base-path={folder}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )

    def answers() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    try:
        eventually(answers)
        yield f"git://127.0.0.1:{port}"
    finally:
        daemon.terminate()
        daemon.wait()


class _Files(SimpleHTTPRequestHandler):
    """Serves files to who knows the password."""

    def __init__(self, *arguments: object, login: str, seen: list[str], **options: object) -> None:
        self._login = f"Basic {base64.b64encode(login.encode()).decode()}"
        self._seen = seen
        super().__init__(*arguments, **options)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        self._seen.append(self.path)
        if self.headers["Authorization"] == self._login:
            return super().do_GET()
        self.send_response(401)
        self.send_header("WWW-Authenticate", 'Basic realm="git"')
        self.send_header("Content-Length", "0")
        return self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def private_git_over_http(folder: Path, login: str) -> Iterator[tuple[str, list[str]]]:
    """Serve the bare repositories in a folder as plain files, which knows no shallow fetches.

    Args:
        folder: With repositories that `git update-server-info` was run in.
        login: "user:password" that is asked for.

    Yields:
        The URL that their paths follow, and the paths that were asked for.
    """
    seen: list[str] = []
    handler = partial(_Files, directory=str(folder), login=login, seen=seen)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", seen
        finally:
            server.shutdown()
            thread.join()
