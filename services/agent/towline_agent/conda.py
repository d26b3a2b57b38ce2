"""Conda's installer, as containers of builds get it, and what it leaves for the image's configuration."""

import io
import json
import tarfile
from collections.abc import Mapping
from importlib.metadata import distribution
from pathlib import Path
from typing import Final

from towline_agent import conda_install
from towline_agent.core.conda import Channels, logins_file
from towline_agent.engine.port import ContainerId, Engine

__all__ = ["activation", "program_files", "program_trees"]

_ACTIVATION: Final = str(conda_install.ACTIVATION)


def program_files(channels: Channels) -> Mapping[str, bytes]:
    """Return the small files of the installer, by their path in /towline; channels' logins are one."""
    program = Path(conda_install.__file__).read_bytes()
    return {"conda_install.py": program, "conda-logins.json": logins_file(channels.urls)}


def program_trees() -> Mapping[str, Path]:
    """Return the folders of the installer, by their path in /towline."""
    return {"conda/rattler": Path(str(distribution("py-rattler").locate_file("rattler")))}


async def activation(engine: Engine, container: ContainerId) -> tuple[str, ...]:
    """Return what activating the environment in a container sets, "NAME=value" each."""
    data = b"".join([chunk async for chunk in engine.get_archive(container, _ACTIVATION)])
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        (file,) = archive.getmembers()
        values: dict[str, str] = json.loads(archive.extractfile(file).read())  # type: ignore[union-attr]  # a file
    return tuple(f"{name}={value}" for name, value in values.items())
