"""Errors of Docker's engine, of aiodocker and of the connection to it, as Towline's."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import aiohttp
from aiodocker import DockerError

from towline.errors import (
    AlreadyExists,
    Internal,
    InvalidArgument,
    NotFound,
    TowlineError,
    Unavailable,
)
from towline.requests.images import registry_of

__all__ = ["refusal", "translated"]

# Errors by status are about what the path names first.
_MISSING: Final = {
    "image": "IMAGE_NOT_FOUND",
    "container": "CONTAINER_NOT_FOUND",
    "volume": "VOLUME_NOT_FOUND",
}


@contextmanager
def translated(subject: str = "container") -> Iterator[None]:
    """Turn every error of aiodocker and below into Towline's; see the port for which."""
    try:
        yield
    except (DockerError, aiohttp.ClientError, TimeoutError, OSError) as error:
        raise _error(error, subject) from error


def refusal(answer: str, reference: str) -> str:
    """Add what can be done to a container registry's answer about an image, as the engine passes it on."""
    registry = registry_of(reference)
    remedies = {
        "x509:": f"put its CA's certificate into /etc/docker/certs.d/{registry}/ca.crt on the engine's node",
        "server gave HTTP response to HTTPS client": (
            f"give it TLS, or name {registry} in the engine's insecure-registries"
        ),
        "no basic auth credentials": f"log in on this node: docker login {registry}",
        "authentication required": f"log in anew on this node: docker login {registry}",
    }
    remedy = next((remedy for words, remedy in remedies.items() if words in answer), "")
    return f"{answer}; {remedy}" if remedy else answer


def _error(error: Exception, subject: str) -> TowlineError:
    if isinstance(error, DockerError):
        return _by_status(error.status, error.message, subject)
    detail = str(error) or type(error).__name__
    return Unavailable(f"the Docker Engine does not answer: {detail}", reason="ENGINE_UNAVAILABLE")


def _by_status(status: int, message: str, subject: str) -> TowlineError:
    match status:
        case 404:
            return NotFound(message, reason=_MISSING[subject])
        case 409:
            return AlreadyExists(message, reason="CONTAINER_EXISTS")
        case 400 | 403 | 413 | 422:
            return InvalidArgument(message, reason="ENGINE_REFUSED")
        case 900:
            return Unavailable(f"the Docker Engine does not answer: {message}", reason="ENGINE_UNAVAILABLE")
        case 503:
            return Unavailable(message, reason="ENGINE_UNAVAILABLE")
        case _:
            return Internal(f"the Docker Engine failed: {message}", reason="ENGINE_FAILED")
