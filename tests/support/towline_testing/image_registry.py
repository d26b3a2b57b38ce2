"""A container registry with one small image, for pulling over real HTTP."""

import gzip
import hashlib
import io
import json
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


class ImageRegistry:
    """Serves "NAME:latest"; an engine pulls from 127.0.0.0/8 without TLS."""

    def __init__(self, port: int, content: bytes) -> None:
        layer = _layer(content)
        config = json.dumps(
            {
                "architecture": "amd64",
                "os": "linux",
                "config": {"Env": ["FROM=registry"], "Cmd": ["/file"]},
                "rootfs": {"type": "layers", "diff_ids": [_digest(layer)]},
            }
        ).encode()
        packed = gzip.compress(layer, mtime=0)
        manifest = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": _MANIFEST,
                "config": _entry("application/vnd.docker.container.image.v1+json", config),
                "layers": [_entry("application/vnd.docker.image.rootfs.diff.tar.gzip", packed)],
            }
        ).encode()
        self.image_id = _digest(config)
        self.reference = f"127.0.0.1:{port}/towline-test:latest"
        self.by_digest = f"127.0.0.1:{port}/towline-test@{_digest(manifest)}"
        self.files = {
            "/v2/": b"{}",
            "/v2/towline-test/manifests/latest": manifest,
            f"/v2/towline-test/manifests/{_digest(manifest)}": manifest,
            f"/v2/towline-test/blobs/{_digest(config)}": config,
            f"/v2/towline-test/blobs/{_digest(packed)}": packed,
        }


def _layer(content: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        member = tarfile.TarInfo("file")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def _entry(kind: str, data: bytes) -> dict[str, object]:
    return {"mediaType": kind, "size": len(data), "digest": _digest(data)}


@contextmanager
def image_registry(content: bytes) -> Iterator[ImageRegistry]:
    """Serve an image whose one layer holds one file with this content."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            data = registry.files.get(self.path)
            self.send_response(404 if data is None else 200)
            data = data or b'{"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]}'
            self.send_header("Content-Type", _MANIFEST if "/manifests/" in self.path else "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.send_header("Docker-Content-Digest", _digest(data))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(data)

        do_HEAD = do_GET  # noqa: N815 - named by the base class

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        registry = ImageRegistry(server.server_port, content)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield registry
        finally:
            server.shutdown()
            thread.join()
