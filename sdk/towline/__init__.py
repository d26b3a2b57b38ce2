"""Towline: record a run once, run it on any GPU node.

    import towline

    run = towline.init(config={"lr": 0.1})      # in a training script
    stop = towline.catch_stop()                 # there too: shall it stop, why, how soon
    client = towline.Client()                   # everywhere else

This module imports the standard library only until a client is asked for: it is
shipped into containers, where nothing else of Towline is installed.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from towline.runtime import Run, Stop, catch_stop, init

if TYPE_CHECKING:
    from towline.client import AsyncClient, Client

__all__ = ["AsyncClient", "Client", "Run", "Stop", "catch_stop", "init"]

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    if name in ("AsyncClient", "Client"):
        return getattr(import_module("towline.client"), name)
    raise AttributeError(f"module 'towline' has no attribute {name!r}")
