"""docs/operating.md tells every setting, and none that is not there."""

import re
from pathlib import Path

import pytest

from towline.service.settings import ServiceSettings
from towline_agent.settings import AgentSettings
from towline_queue.settings import QueueSettings
from towline_registry.settings import RegistrySettings

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "operating.md").read_text()


@pytest.mark.parametrize(
    ("heading", "settings"),
    [
        ("## Settings of all services", ServiceSettings),
        ("## Settings of the registry", RegistrySettings),
        ("## Settings of the queue service", QueueSettings),
        ("## Settings of an agent", AgentSettings),
    ],
)
def test_settings_are_documented(heading: str, settings: type[ServiceSettings]) -> None:
    section = PAGE.split(heading)[1].split("\n## ")[0]
    told = set(re.findall(r"^\| `([A-Z_]+)` \|", section, re.MULTILINE))
    inherited = set() if settings is ServiceSettings else set(ServiceSettings.model_fields) - {"listen"}
    assert told == {name.upper() for name in set(settings.model_fields) - inherited}
