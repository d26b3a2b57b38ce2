"""Conda's installer, as containers of builds get it, and what it leaves for the image's configuration."""

import io
import json
import tarfile
from collections.abc import Mapping
from importlib.metadata import distribution
from pathlib import Path
from typing import Final

from towline.errors import InvalidArgument
from towline_agent import conda_install
from towline_agent.core.conda import Channels, logins_file
from towline_agent.engine.port import ContainerId, Engine

__all__ = ["activation", "program_files", "program_trees"]

_ACTIVATION: Final = str(conda_install.ACTIVATION)
_MOST_BYTES: Final = 1024**2


def program_files(channels: Channels) -> Mapping[str, bytes]:
    """Return the small files of the installer, by their path in /towline; channels' logins are one."""
    program = Path(conda_install.__file__).read_bytes()
    return {"conda_install.py": program, "conda-logins.json": logins_file(channels.urls)}


def program_trees() -> Mapping[str, Path]:
    """Return the folders of the installer, by their path in /towline."""
    return {"conda/rattler": Path(str(distribution("py-rattler").locate_file("rattler")))}


async def activation(engine: Engine, container: ContainerId) -> tuple[str, ...]:
    """Return what activating the environment in a container sets, "NAME=value" each.

    Raises:
        InvalidArgument: Something else has written over it: what an installation runs may write anywhere.
    """
    data = bytearray()
    async for chunk in engine.get_archive(container, _ACTIVATION):
        data += chunk
        if len(data) > _MOST_BYTES:
            raise _damaged()
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
            file = archive.extractfile(archive.getmembers()[0])
            values = json.loads(file.read()) if file else None
    except (tarfile.TarError, ValueError, KeyError, IndexError, RecursionError):
        raise _damaged() from None
    if not isinstance(values, dict):
        raise _damaged()
    return tuple(f"{name}={value}" for name, value in values.items())


def _damaged() -> InvalidArgument:
    return InvalidArgument(
        f"a package of the environment has changed {_ACTIVATION}, which tells what activating it sets",
        reason="INVALID_ACTIVATION",
    )
