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

__all__ = ["translated"]

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
