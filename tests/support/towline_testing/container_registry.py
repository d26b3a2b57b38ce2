"""The registry of container images that Debian packages, as a process, with images pushed over its API."""

import base64
import hashlib
import json
import shutil
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.x509.oid import NameOID

from towline_testing.image_registry import ImageRegistry
from towline_testing.ports import free_port
from towline_testing.waiting import eventually

# Of "ada" with the password "s3cret".
_HTPASSWD = "ada:$2b$04$q/X7nrUr8d/3IM0kbtJlWucIrEY/ALPMJrIqTu57YHlC9OTvjLQjK\n"
_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
_INDEX = "application/vnd.oci.image.index.v1+json"


@dataclass
class ContainerRegistry:
    """A running registry."""

    host: str
    """"127.0.0.1:port", or another address."""
    folder: Path
    headers: dict[str, str] = field(default_factory=dict)
    """What pushing takes."""
    process: subprocess.Popen[bytes] | None = None

    def repository(self, path: str = "towline/images") -> str:
        return f"{self.host}/{path}"

    def manifests(self, path: str = "towline/images") -> list[str]:
        """Digests, without "sha256:", of all that was pushed to a repository and is whole."""
        revisions = self._manifests(path) / "revisions/sha256"
        return sorted(found.name for found in revisions.iterdir()) if revisions.is_dir() else []

    def lose(self, manifest: str, path: str = "towline/images") -> None:
        """Lose a manifest, as an operator's clean-up does."""
        shutil.rmtree(self._manifests(path) / "tags")
        shutil.rmtree(self._manifests(path) / "revisions/sha256" / manifest)

    def _manifests(self, path: str) -> Path:
        return self.folder / "data/docker/registry/v2/repositories" / path / "_manifests"

    def login_file(self) -> Path:
        """What `docker login` would have written for ada."""
        file = self.folder / "login.json"
        login = base64.b64encode(b"ada:s3cret").decode()
        file.write_text(json.dumps({"auths": {self.host: {"auth": login}}}))
        return file

    def stop(self) -> None:
        """End it as a crash does."""
        assert self.process
        self.process.kill()
        self.process.wait()

    def push(self, path: str, tag: str, content: bytes, *, index: bool = False) -> str:
        """Push an image with one file; gives the digest that the tag has then.

        Args:
            path: Its repository.
            tag: Its tag.
            content: Of the file.
            index: Whether the tag is for an index, as of images for several platforms.
        """
        image = ImageRegistry(0, content)
        blobs = {name: data for name, data in image.files.items() if "/blobs/" in name}
        for name, data in blobs.items():
            started = self._call("POST", f"{path}/blobs/uploads/", b"")
            there = started.headers["Location"]
            self._call("PUT", f"{there}&digest={name.rpartition('/')[2]}", data)
        manifest = image.files["/v2/towline-test/manifests/latest"]
        digest = f"sha256:{hashlib.sha256(manifest).hexdigest()}"
        if not index:
            self._call("PUT", f"{path}/manifests/{tag}", manifest, _MANIFEST)
            return digest
        self._call("PUT", f"{path}/manifests/{digest}", manifest, _MANIFEST)
        entry = {"mediaType": _MANIFEST, "size": len(manifest), "digest": digest}
        entry |= {"platform": {"architecture": "amd64", "os": "linux"}}
        listed = json.dumps({"schemaVersion": 2, "mediaType": _INDEX, "manifests": [entry]}).encode()
        self._call("PUT", f"{path}/manifests/{tag}", listed, _INDEX)
        return f"sha256:{hashlib.sha256(listed).hexdigest()}"

    def _call(self, method: str, path: str, data: bytes, kind: str = "application/octet-stream") -> Any:
        url = path if path.startswith("http") else f"http://{self.host}/v2/{path}"
        headers = self.headers | {"Content-Type": kind}
        return urllib.request.urlopen(urllib.request.Request(url, data, headers, method=method), timeout=10)


@contextmanager
def container_registry(
    folder: Path, *, auth: str = "", tls: bool = False, address: str = "127.0.0.1"
) -> Iterator[ContainerRegistry]:
    """Run a registry.

    Args:
        folder: Gets its data.
        tls: Whether it speaks TLS, with a certificate of its own, certificate.pem in the folder; engines
            take any from loopback.
        auth: "htpasswd": only ada may pull, with the password s3cret; "token": anybody may, with a token.
        address: Of this machine.
    """
    folder.mkdir()
    port = free_port()
    config: dict[str, Any] = {
        "version": 0.1,
        "log": {"level": "error", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(folder / "data")}},
        "http": {"addr": f"{address}:{port}"},
    }
    registry = ContainerRegistry(f"{address}:{port}", folder)
    with ExitStack() as stack:
        if auth == "htpasswd":
            (folder / "htpasswd").write_text(_HTPASSWD)
            config["auth"] = {"htpasswd": {"realm": "private", "path": str(folder / "htpasswd")}}
            registry.headers["Authorization"] = f"Basic {base64.b64encode(b'ada:s3cret').decode()}"
        elif auth == "token":
            issuer = _Issuer()
            (folder / "issuer.pem").write_bytes(issuer.certificate)
            config["auth"] = {
                "token": {
                    "realm": stack.enter_context(issuer.serving()),
                    "service": "a registry",
                    "issuer": "the issuer",
                    "rootcertbundle": str(folder / "issuer.pem"),
                }
            }
            registry.headers["Authorization"] = f"Bearer {issuer.token('digits', 'pull,push')}"
        if tls:
            issuer = _Issuer(address)
            (folder / "certificate.pem").write_bytes(issuer.certificate)
            (folder / "key.pem").write_bytes(issuer.key)
            names = {name: str(folder / f"{name}.pem") for name in ("certificate", "key")}
            config["http"] |= {"tls": names}
        (folder / "config.json").write_text(json.dumps(config))  # JSON is YAML
        process = subprocess.Popen(
            ["docker-registry", "serve", str(folder / "config.json")],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        stack.callback(process.wait)
        stack.callback(process.terminate)
        registry.process = process
        eventually(lambda: _listens(address, port))
        yield registry


def _listens(address: str, port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((address, port)) == 0


class _Issuer:
    """Gives tokens for pulling to anybody, signed as registries want them."""

    def __init__(self, address: str = "127.0.0.1") -> None:
        self._key = rsa.generate_private_key(65537, 2048)
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "the issuer")])
        now = datetime.now(UTC)
        self._certificate = (
            x509.CertificateBuilder(name, name, self._key.public_key(), x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address(address))]), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        self.certificate = self._certificate.public_bytes(serialization.Encoding.PEM)
        self.key = self._key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )

    def token(self, path: str, actions: str) -> str:
        now = int(time.time())
        der = self._certificate.public_bytes(serialization.Encoding.DER)
        access = [{"type": "repository", "name": path, "actions": actions.split(",")}]
        header = {"typ": "JWT", "alg": "RS256", "x5c": [base64.b64encode(der).decode()]}
        claims = {
            "iss": "the issuer",
            "aud": "a registry",
            "nbf": now - 60,
            "exp": now + 600,
            "access": access,
        }
        signed = ".".join(_encoded(json.dumps(part).encode()) for part in (header, claims))
        signature = self._key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256())
        return f"{signed}.{_encoded(signature)}"

    @contextmanager
    def serving(self) -> Iterator[str]:
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked = parse_qs(urlsplit(self.path).query)
                _, path, actions = asked["scope"][0].split(":")
                given = issuer.token(path, actions) if asked["service"] == ["a registry"] else ""
                data = json.dumps({"token": given}).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            try:
                yield f"http://127.0.0.1:{server.server_port}/token"
            finally:
                server.shutdown()
                thread.join()


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
