"""What the watchdog's client makes of an engine's answers; over TCP, and on the real engine."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from uuid import uuid4

import pytest

from towline_agent.watchdog.docker import Docker, Found, Silent
from towline_testing.engine import base_image, docker, inspect

RUNS = b'{"Id": "abc", "State": {"Running": true, "Pid": 7}, "Name": "/x"}'


@contextmanager
def engine_that_answers(status: int, body: bytes, seen: list[str]) -> Iterator[Docker]:
    """Serve the same answer to every request, over TCP."""

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(f"{self.command} {self.path}")
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            self.do_GET()

        def log_message(self, format: str, *arguments: object) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield Docker(f"tcp://127.0.0.1:{server.server_port}")
        finally:
            server.shutdown()
            thread.join()


def test_what_is_asked() -> None:
    seen: list[str] = []
    with engine_that_answers(200, RUNS, seen) as engine:
        assert engine.inspect("towline-x-1") == Found("abc", True, 7)
    with engine_that_answers(204, b"", seen) as engine:
        engine.kill("abc", "SIGRTMIN+1")
    assert seen == ["GET /containers/towline-x-1/json", "POST /containers/abc/kill?signal=SIGRTMIN%2B1"]


@pytest.mark.parametrize("status", [404, 409])
def test_what_does_not_run_needs_no_signal(status: int) -> None:
    with engine_that_answers(status, b"{}", []) as engine:
        engine.kill("abc", "SIGKILL")


def test_what_is_not_there() -> None:
    with engine_that_answers(404, b"{}", []) as engine:
        assert engine.inspect("x") is None


@pytest.mark.parametrize(
    ("status", "body"),
    [(500, b'{"message": "containerd is away"}'), (403, b""), (200, b"<html>"), (200, b"{}"), (200, b"[]")],
)
@pytest.mark.parametrize(
    "ask", [lambda engine: engine.inspect("x"), lambda engine: engine.kill("x", "SIGKILL")]
)
def test_neither_yes_nor_no_is_silence(status: int, body: bytes, ask: Callable[[Docker], object]) -> None:
    with engine_that_answers(status, body, []) as engine, pytest.raises(Silent):
        ask(engine)


@pytest.mark.parametrize(
    "url", ["unix:///absent", "tcp://127.0.0.1:1", "ssh://host", "nonsense", "tcp://h:x"]
)
def test_what_cannot_be_reached_is_silent(url: str) -> None:
    with pytest.raises(Silent):
        Docker(url).inspect("x")


@pytest.mark.docker
def test_the_real_engine() -> None:
    engine = Docker("unix:///var/run/docker.sock")
    name = f"towline-test-{uuid4().hex}"
    assert engine.inspect(name) is None
    engine.kill(name, "SIGTERM")
    container = docker(
        "create",
        "--name",
        name,
        "--network=none",
        "--label=towline.test=watchdog",
        base_image(),
        "sleep",
        "600",
    )
    try:
        assert engine.inspect(name) == Found(container, False, 0)
        engine.kill(name, "SIGTERM")
        docker("start", name)
        found = engine.inspect(name)
        assert found and found.running and found.pid == inspect(name)["State"]["Pid"]
        engine.kill(name, "SIGKILL")
        docker("wait", name)
        assert engine.inspect(name) == Found(container, False, 0)
    finally:
        docker("rm", "--force", name)
