"""A service as a process: settings from the environment, one line for what prevents its start."""

import asyncio
import gc
import sys
from collections.abc import Callable, Coroutine
from typing import Final, TypeVar

from pydantic import ValidationError
from pydantic_settings import BaseSettings

from towline.errors import InvalidArgument, TowlineError
from towline.service.logging import configure
from towline.service.settings import ServiceSettings

__all__ = ["load_settings", "run"]

# New objects until the youngest are looked through, and how often the older ones are, in turn.
_COLLECT: Final = (10_000, 20, 100)

_Settings = TypeVar("_Settings", bound=BaseSettings)
_ServiceSettings = TypeVar("_ServiceSettings", bound=ServiceSettings)


def load_settings(kind: type[_Settings]) -> _Settings:
    """Read settings from the environment.

    Raises:
        InvalidArgument: Some are missing or wrong; the message names each variable. Reason INVALID_SETTING.
    """
    try:
        return kind()
    except ValidationError as error:
        prefix = kind.model_config.get("env_prefix", "")
        problems = {
            f"{prefix}{'.'.join(map(str, problem['loc']))}".upper(): (
                "is not set" if problem["type"] == "missing" else problem["msg"]
            )
            for problem in error.errors()
        }
        message = "; ".join(f"{name}: {problem}" for name, problem in problems.items())
        raise InvalidArgument(message, reason="INVALID_SETTING", metadata=problems) from None


def _collect_seldom() -> None:
    """Keep the garbage collector from what lives as long as the service does.

    As Python sets it, going through what thousands of connections hold takes a quarter of an idle service's
    time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECT)


def run(
    kind: type[_ServiceSettings], serve: Callable[[_ServiceSettings], Coroutine[None, None, None]]
) -> int:
    """Run a service until it ends and return the exit status: 0, or 1 after one line on standard error.

    Args:
        kind: Its settings, read from the environment.
        serve: Serves until it was asked to stop.
    """
    status = 0
    try:
        settings = load_settings(kind)
        configure(settings.log_level, settings.log_format)
        _collect_seldom()
        asyncio.run(serve(settings))
    except* TowlineError as group:
        sys.stderr.write(f"{_first(group).message}\n")
        status = 1
    return status


def _first(group: ExceptionGroup[TowlineError]) -> TowlineError:
    """Return one leaf: what prevents a start is one thing, whatever task groups it passed through."""
    error: TowlineError | ExceptionGroup[TowlineError] = group
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error
