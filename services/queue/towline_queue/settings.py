"""Settings of the queue service."""

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from towline.service.settings import ServiceSettings

__all__ = ["QueueSettings"]


class QueueSettings(ServiceSettings):
    """Settings of the queue service, read from environment variables TOWLINE_QUEUE_…."""

    model_config = SettingsConfigDict(env_prefix="TOWLINE_QUEUE_")

    listen: str = "127.0.0.1:7421"

    database_url: str
    """PostgreSQL 15 or newer, such as "postgresql://user@host/database"; the schema `queue` is made in it."""

    database_pool_size: int = Field(default=16, ge=2)
    """Connections to PostgreSQL, and one more that hears of other replicas; all replicas together must stay
    below its `max_connections`."""

    registry_address: str = "127.0.0.1:7420"
    """Where the registry listens, "host:port" or "unix:PATH"."""

    max_submits_in_flight: int = Field(default=512, ge=1)
    """Submissions being carried out at once; more are refused with RESOURCE_EXHAUSTED/OVERLOADED."""

    grant_reply_within_s: float = Field(default=10, gt=0)
    """Seconds an agent may take to answer a grant before the run waits again."""

    reserve_after_s: float = Field(default=60, ge=0)
    """Seconds that smaller runs may pass one that fits no agent yet."""

    upkeep_every_s: float = Field(default=1, gt=0)
    """Seconds between two looks at what time demands: lost agents, unanswered grants, schedules."""

    keep_attempts_days: int = Field(default=400, ge=0)
    """Days that the attempts of a month are kept once it is over; 0: for ever."""
