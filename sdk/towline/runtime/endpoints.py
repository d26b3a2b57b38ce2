"""Where the services are: environment variables, else the file that `towline up` writes."""

import json
import os
from pathlib import Path
from typing import NamedTuple

from towline.errors import Unavailable

__all__ = ["Endpoints", "data_dir"]

REGISTRY_VARIABLE = "TOWLINE_REGISTRY_ADDRESS"
QUEUE_VARIABLE = "TOWLINE_QUEUE_ADDRESS"


class Endpoints(NamedTuple):
    """Addresses of the services, each "host:port" or "unix:PATH"."""

    registry: str
    queue: str

    @classmethod
    def discover(cls) -> "Endpoints":
        """Find the services.

        The variables TOWLINE_REGISTRY_ADDRESS and TOWLINE_QUEUE_ADDRESS come first; what they leave open
        is read from `endpoints.json` in the data folder.

        Raises:
            Unavailable: Neither says; reason NO_ENDPOINTS.
        """
        registry, queue = os.environ.get(REGISTRY_VARIABLE), os.environ.get(QUEUE_VARIABLE)
        if registry and queue:
            return cls(registry, queue)
        file = data_dir() / "endpoints.json"
        try:
            written = json.loads(file.read_text(encoding="utf-8"))
            return cls(str(registry or written["registry"]), str(queue or written["queue"]))
        except FileNotFoundError:
            problem = "no Towline services are known here"
        except (OSError, ValueError, KeyError, TypeError) as error:
            problem = f"{file} cannot be read ({type(error).__name__}: {error})"
        raise Unavailable(
            f"{problem}; run `towline up`, or set {REGISTRY_VARIABLE} and {QUEUE_VARIABLE}",
            reason="NO_ENDPOINTS",
            metadata={"file": str(file)},
        )


def data_dir() -> Path:
    """Give the folder that `towline up` uses where none is named: $TOWLINE_DATA_DIR, else ~/.towline."""
    named = os.environ.get("TOWLINE_DATA_DIR")
    return Path(named).expanduser() if named else Path.home() / ".towline"
