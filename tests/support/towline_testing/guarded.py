"""A web server for what builds fetch: TLS by an authority that nobody knows, and a login."""

import base64
import ssl
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from uuid import uuid4

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_HOST = "127.0.0.1"


@dataclass
class Guarded:
    """The server; its folder is what it serves."""

    folder: Path
    authority: Path
    """PEM of its authority."""
    port: int
    user: str = "builder"
    password: str = field(default_factory=lambda: f"s3cret{uuid4().hex}")
    asked: list[str] = field(default_factory=list)
    """Paths that were served."""
    behind: str = ""
    """Where what is not in the folder is fetched, such as "http://deb.debian.example"."""

    def url(self, path: str = "", *, login: bool = True) -> str:
        who = f"{self.user}:{self.password}@" if login else ""
        return f"https://{who}{_HOST}:{self.port}{path}"


@contextmanager
def guarded(folder: Path) -> Iterator[Guarded]:
    """Serve a folder on loopback, to those who know the login."""
    folder.mkdir(parents=True, exist_ok=True)
    authority, certificate, key = (folder.parent / name for name in ("authority.pem", "tls.crt", "tls.key"))
    _certify(authority, certificate, key)
    server = ThreadingHTTPServer((_HOST, 0), SimpleHTTPRequestHandler)
    made = Guarded(folder, authority, server.server_port)

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(folder))  # type: ignore[arg-type]  # as the server gives them

        def do_GET(self) -> None:
            if self._is_let_in():
                made.asked.append(self.path)
                if made.behind and not (folder / self.path.lstrip("/")).exists():
                    self._pass_on()
                else:
                    super().do_GET()

        def do_HEAD(self) -> None:
            if self._is_let_in():
                super().do_HEAD()

        def _is_let_in(self) -> bool:
            login = base64.b64encode(f"{made.user}:{made.password}".encode()).decode()
            if self.headers.get("Authorization") == f"Basic {login}":
                return True
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="packages"')
            self.send_header("Content-Length", "0")
            self.end_headers()
            return False

        def _pass_on(self) -> None:
            try:
                with urllib.request.urlopen(f"{made.behind}{self.path}") as answer:
                    content = answer.read()
            except urllib.error.HTTPError as error:
                self.send_error(error.code)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server.RequestHandlerClass = Handler
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield made
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _certify(authority: Path, certificate: Path, key: Path) -> None:
    issuer_key, own_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"towline test {uuid4().hex}")])
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, _HOST)])
    now = datetime.now(UTC)

    def signed(name: x509.Name, public: ec.EllipticCurvePublicKey, *, is_authority: bool) -> bytes:
        builder = (
            x509.CertificateBuilder(issuer, name, public, x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(is_authority, None), critical=True)
        )
        if not is_authority:
            names = x509.SubjectAlternativeName([x509.IPAddress(ip_address(_HOST))])
            builder = builder.add_extension(names, critical=False)
        return builder.sign(issuer_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    authority.write_bytes(signed(issuer, issuer_key.public_key(), is_authority=True))
    certificate.write_bytes(signed(subject, own_key.public_key(), is_authority=False))
    key.write_bytes(
        own_key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
