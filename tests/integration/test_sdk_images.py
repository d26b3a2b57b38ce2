"""Tags of images, resolved to digests by real registries."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from towline.capture import images
from towline.errors import InvalidArgument
from towline.requests.images import parse
from towline_testing.container_registry import ContainerRegistry, container_registry
from towline_testing.ports import free_port


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ContainerRegistry]:
    with container_registry(tmp_path_factory.mktemp("registry") / "open") as running:
        yield running


@pytest.mark.parametrize("index", [False, True])
def test_a_tag_becomes_the_digest_it_has_now(registry, index):
    path = f"team/digits-{index}".lower()
    first = registry.push(path, "v1", b"one", index=index)
    reference = f"{registry.host}/{path}:v1"
    assert images.resolve(reference) == images.Resolved(f"{registry.host}/{path}@{first}", reference)
    second = registry.push(path, "v1", b"two", index=index)
    assert first != second
    assert images.resolve(reference).reference == f"{registry.host}/{path}@{second}"
    port = registry.host.partition(":")[2]
    assert images.resolve(f"localhost:{port}/{path}:v1").reference == f"localhost:{port}/{path}@{second}"


def test_no_tag_is_the_latest_and_a_digest_is_left_as_it_is(registry):
    digest = registry.push("plain", "latest", b"x")
    assert images.resolve(f"{registry.host}/plain").reference == f"{registry.host}/plain@{digest}"
    for given in (f"{registry.host}/plain@{digest}", f"{registry.host}/absent:tag@{digest}"):
        assert images.resolve(given) == images.Resolved(given)


def unresolved(reference: str, why: str) -> None:
    found = images.resolve(reference)
    assert (found.reference, found.requested) == (reference, "")
    assert found.note.startswith(f"{reference} is kept as it is") and why in found.note


def test_what_cannot_be_resolved_stays_a_tag_and_says_why(registry, tmp_path):
    unresolved(f"{registry.host}/plain:absent", "does not have it")
    unresolved(f"{registry.host}/nothing:v1", "does not have it")
    unresolved(f"127.0.0.1:{free_port()}/x:v1", "does not answer: Connection refused")
    unresolved("no-such-host.invalid/x:v1", "no-such-host.invalid does not answer")
    with container_registry(tmp_path / "private", auth="htpasswd") as private:
        private.push("digits", "v1", b"x")
        unresolved(f"{private.host}/digits:v1", "only to who logs in")


def test_a_registry_that_wants_a_token_gives_one_to_anybody(tmp_path):
    with container_registry(tmp_path / "tokens", auth="token") as tokens:
        digest = tokens.push("digits", "v1", b"x", index=True)
        found = images.resolve(f"{tokens.host}/digits:v1")
        assert found.reference == f"{tokens.host}/digits@{digest}"
        unresolved(f"{tokens.host}/digits:v2", "does not have it")


@contextmanager
def strange_registry(status: int, headers: dict[str, str], body: bytes) -> Iterator[str]:
    """Answer everything in one way."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            for name, value in (headers | {"Content-Length": str(len(body))}).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815 - named by the base class

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_a_registry_that_does_not_tell_the_digest_has_its_manifest_read():
    with strange_registry(200, {}, b"{}") as host:
        digest = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
        assert images.resolve(f"{host}/x:1").reference == f"{host}/x@{digest}"


@pytest.mark.parametrize(
    ("status", "headers", "why"),
    [
        (500, {}, "HTTP status 500"),
        (200, {"Docker-Content-Digest": "sha256:nonsense"}, "HTTP status 200"),
        (403, {}, "only to who logs in"),
        (401, {}, "only to who logs in"),
        (401, {"WWW-Authenticate": 'Bearer realm="file:///etc/passwd"'}, "only to who logs in"),
        (401, {"WWW-Authenticate": 'Bearer realm="http://host.invalid/token"'}, "only to who logs in"),
    ],
)
def test_strange_answers_are_told(status, headers, why):
    with strange_registry(status, headers, b"") as host:
        unresolved(f"{host}/x:1", why)


@pytest.mark.parametrize(
    ("reference", "host", "path", "tag"),
    [
        ("python", "docker.io", "library/python", "latest"),
        ("python:3.11-slim", "docker.io", "library/python", "3.11-slim"),
        ("pytorch/pytorch", "docker.io", "pytorch/pytorch", "latest"),
        ("docker.io/python:3", "docker.io", "library/python", "3"),
        ("index.docker.io/a/b", "docker.io", "a/b", "latest"),
        ("ghcr.io/a/b/c:x", "ghcr.io", "a/b/c", "x"),
        ("localhost/a", "localhost", "a", "latest"),
        ("host:5000/a:b", "host:5000", "a", "b"),
        ("[::1]:5000/a", "[::1]:5000", "a", "latest"),
        ("team/image", "docker.io", "team/image", "latest"),
    ],
)
def test_references_are_read_as_docker_reads_them(reference, host, path, tag):
    image = parse(reference)
    assert (image.host, image.path, image.tag, image.digest) == (host, path, tag, "")
    assert reference.startswith(image.name)


@pytest.mark.parametrize(
    "reference", ["", "Upper/Case", "a b", "-x", "a:", "a@sha256:1", "http://a/b", "a/", "a//b"]
)
def test_what_is_no_reference_is_refused(reference):
    with pytest.raises(InvalidArgument, match="no image reference"):
        images.resolve(reference)
