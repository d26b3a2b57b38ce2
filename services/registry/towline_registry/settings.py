"""Settings of the registry service."""

import os
from pathlib import Path

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from towline.service.settings import ServiceSettings

__all__ = ["RegistrySettings"]


def _default_folder(name: str) -> Path:
    data = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    return data / "towline" / "registry" / name


class RegistrySettings(ServiceSettings):
    """Settings of the registry service, read from environment variables TOWLINE_REGISTRY_…."""

    model_config = SettingsConfigDict(env_prefix="TOWLINE_REGISTRY_")

    listen: str = "127.0.0.1:7420"

    database_url: str
    """PostgreSQL 15 or newer, such as "postgresql://user@host/database"; gets the schema `registry`."""

    database_pool_size: int = Field(default=8, ge=2)
    """Connections to PostgreSQL; all replicas together must stay below its `max_connections`."""

    blob_url: str = Field(default_factory=lambda: _default_folder("blobs").as_uri())
    """Where blobs are kept: file:///folder, s3://bucket/prefix, gs://bucket/prefix or az://account/container/prefix.

    Credentials and endpoints of object stores come from their usual variables (AWS_…, GOOGLE_…, AZURE_…).
    All replicas share one.
    """

    spool_dir: Path = Field(default_factory=lambda: _default_folder("spool"))
    """Local folder for uploads in progress; needs room for those under way. Each replica has its own."""

    spool_days: float = Field(default=7.0, gt=0)
    """Days after which an upload nobody went on with is dropped."""

    collect_after_hours: float = Field(default=24.0, gt=0)
    """Hours that a blob stays which no version needs; longer than any upload to a new version takes."""

    collect_every_hours: float = Field(default=6.0, gt=0)
    """Hours between collections of blobs that nobody needs; one replica does it for all."""

    queue_address: str = ""
    """Where the queue service listens; empty: job versions cannot be deleted, for runs may refer to them, and
    none is built ahead."""

    keep_deleted_days: float = Field(default=7.0, gt=0)
    """Days that the content of deleted versions stays, for runs that were submitted just before."""

    expire_every_minutes: float = Field(default=10.0, gt=0)
    """Minutes between looks for versions that no retention rule keeps; one replica does it for all."""
