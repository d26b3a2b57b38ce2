"""Settings that every service has; each service adds its own."""

from pathlib import Path
from typing import Literal

from pydantic_settings import BaseSettings

__all__ = ["ServiceSettings"]


class ServiceSettings(BaseSettings):
    """Settings of a gRPC service, read from environment variables with the service's prefix."""

    listen: str
    """Address to listen on, "host:port" or "unix:PATH"; port 0 takes a free one."""

    share_address: bool = False
    """Whether processes of one machine may share a "host:port"; each gets a part of the connections."""

    address_file: Path | None = None
    """File that gets the address listened on once the service is ready."""

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Least level that is logged."""

    log_format: Literal["text", "json"] = "text"
    """Lines for people, or one JSON object a line."""

    stop_grace_s: float = 5.0
    """Seconds that calls in progress get when the service stops."""
