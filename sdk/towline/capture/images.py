"""Images by tag, resolved to the digest that the tag has now.

    found = resolve("pytorch/pytorch:2.5.0")
    found.reference        # "pytorch/pytorch@sha256:…", or the tag as it was where `found.note` says why

A registry is asked over its HTTP API, as anybody may ask: this machine's logins are not used, as agents have
their own. Nothing is downloaded but a digest.
"""

import hashlib
import json
import re
import ssl
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode, urlsplit

from towline.requests.images import HUB, Image, parse

if TYPE_CHECKING:
    from email.message import Message

__all__ = ["Resolved", "resolve"]

_TIMEOUT_S: Final = 10.0
_MOST_BYTES: Final = 4 * 1024**2  # registries keep manifests below that
_HUB_HOST: Final = "registry-1.docker.io"
_KINDS: Final = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")
_CHALLENGE: Final = re.compile(r'(\w+)="([^"]*)"')


@dataclass(frozen=True)
class Resolved:
    """What to run."""

    reference: str
    """By digest where it could be resolved, else as it was given."""
    requested: str = ""
    """As it was given; empty where that is `reference`."""
    note: str = ""
    """A line for people: why it could not be resolved; empty where it was."""


def resolve(reference: str) -> Resolved:
    """Find the digest that a tag has now; at most some ten seconds per request.

    Raises:
        InvalidArgument: It is no reference.
    """
    image = parse(reference)
    if image.digest:
        return Resolved(reference)
    try:
        digest = _digest(image)
    except _Unresolved as problem:
        return Resolved(
            reference,
            note=f"{reference} is kept as it is, as no digest can be found for it ({problem}); each run uses "
            "what it means then, on its node",
        )
    return Resolved(f"{image.name}@{digest}", reference)


class _Unresolved(Exception):
    """Why a tag cannot be resolved, in words."""


class _Answer(NamedTuple):
    status: int
    headers: "Message[str, str]"
    body: bytes


def _digest(image: Image) -> str:
    host = _HUB_HOST if image.host == HUB else image.host
    # As Docker does: a registry on this machine needs no TLS.
    schemes = ("https", "http") if _is_loopback(host) else ("https",)
    for scheme in schemes:
        try:
            return _ask_registry(f"{scheme}://{host}/v2/{image.path}/manifests/{image.tag}", image)
        except _Unreachable as error:
            problem = error
    raise _Unresolved(f"{image.host} does not answer: {problem}")


def _ask_registry(url: str, image: Image) -> str:
    headers = {"Accept": ", ".join(_KINDS)}
    answer = _request("HEAD", url, headers)
    if answer.status == 401:
        headers["Authorization"] = f"Bearer {_token(answer, image)}"
        answer = _request("HEAD", url, headers)
    digest = answer.headers.get("Docker-Content-Digest", "")
    if answer.status == 200 and not digest:
        answer = _request("GET", url, headers)
        digest = f"sha256:{hashlib.sha256(answer.body).hexdigest()}"
    if answer.status in (401, 403):
        raise _Unresolved(f"{image.host} shows it only to who logs in, or does not have it")
    if answer.status == 404:
        raise _Unresolved(f"{image.host} does not have it")
    if answer.status != 200 or not _DIGEST.fullmatch(digest):
        raise _Unresolved(f"{image.host} answers with HTTP status {answer.status}")
    return digest


def _token(refusal: _Answer, image: Image) -> str:
    """Get the token that a registry gives to anybody."""
    kind, _, rest = refusal.headers.get("WWW-Authenticate", "").partition(" ")
    asked = dict(_CHALLENGE.findall(rest))
    realm = urlsplit(asked.get("realm", ""))
    trusted = realm.scheme == "https" or (realm.scheme == "http" and _is_loopback(realm.netloc))
    if kind.lower() != "bearer" or not trusted:
        raise _Unresolved(f"{image.host} shows it only to who logs in")
    wanted = {"service": asked.get("service", ""), "scope": f"repository:{image.path}:pull"}
    query = urlencode({name: value for name, value in wanted.items() if value})
    answer = _request("GET", f"{asked['realm']}{'&' if realm.query else '?'}{query}", {})
    try:
        told = json.loads(answer.body)
        return str(told.get("token") or told["access_token"])
    except (ValueError, LookupError, TypeError, AttributeError):
        raise _Unresolved(f"{image.host} shows it only to who logs in") from None


class _Unreachable(Exception):
    """No answer at all, in words."""


def _request(method: str, url: str, headers: Mapping[str, str]) -> _Answer:
    request = urllib.request.Request(url, method=method, headers=dict(headers))  # noqa: S310 - http and https only
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as response:  # noqa: S310 - as above
            return _Answer(response.status, response.headers, response.read(_MOST_BYTES))
    except HTTPError as error:
        return _Answer(error.code, error.headers, b"")
    except URLError as error:
        reason = error.reason
        words = reason.strerror if isinstance(reason, OSError) and reason.strerror else str(reason)
        raise _Unreachable("its certificate is not trusted" if _is_certificate(reason) else words) from None
    except (OSError, HTTPException, ValueError) as error:
        raise _Unreachable(str(error) or type(error).__name__) from None


def _is_certificate(reason: object) -> bool:
    return isinstance(reason, ssl.SSLCertVerificationError)


def _is_loopback(host: str) -> bool:
    name = host.rpartition(":")[0] if re.search(r":\d+$", host) else host
    return name in ("localhost", "[::1]") or bool(re.fullmatch(r"127(\.\d{1,3}){3}", name))
