"""Extra package indexes that pip and uv are configured with on this machine."""

import configparser
import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from towline.capture.git import without_credentials

__all__ = ["extra_index_urls", "indexes_of"]

_VARIABLES: Final = ("PIP_EXTRA_INDEX_URL", "UV_EXTRA_INDEX_URL", "UV_INDEX")
_SECTIONS: Final = ("global", "install")
# PyTorch's builds for one kind of GPU are on its own indexes, which people name on the command line.
_OF_PYTORCH: Final = re.compile(r"(?:torch|torchvision|torchaudio)==[^+\s]+\+(cu[0-9]+|rocm[0-9.]+|xpu|cpu)")


def extra_index_urls(variables: Mapping[str, str], project: Path, prefix: str = "") -> list[str]:
    """Give the extra indexes, without user names and passwords, each once, in order of preference.

    Read are pip's and uv's environment variables and configuration files; the main index is the business of
    whoever builds the image.

    Args:
        variables: Of the environment.
        project: Root of the source tree, which may configure uv.
        prefix: Of the interpreter, whose environment may configure pip; empty: unknown.
    """
    found = [word for name in _VARIABLES for word in variables.get(name, "").split()]
    for file in _pip_files(variables, prefix):
        found.extend(_of_pip(file))
    for file in _uv_files(variables, project):
        found.extend(_of_uv(file))
    named = (re.sub(r"^[A-Za-z0-9_-]+=", "", word) for word in found)  # uv: name=url
    urls = (without_credentials(url) for url in named if url.startswith(("http://", "https://")))
    return list(dict.fromkeys(urls))


def indexes_of(requirements: Iterable[str]) -> list[str]:
    """Give the indexes that have what no other one has, as its version tells; each once."""
    matches = (_OF_PYTORCH.fullmatch(requirement) for requirement in requirements)
    return list(dict.fromkeys(f"https://download.pytorch.org/whl/{match[1]}" for match in matches if match))


def _pip_files(variables: Mapping[str, str], prefix: str) -> Iterator[Path]:
    chosen = variables.get("PIP_CONFIG_FILE")
    if chosen:
        if chosen != os.devnull:
            yield Path(chosen)
        return
    if environment := variables.get("VIRTUAL_ENV") or prefix:
        yield Path(environment, "pip.conf")
    home = Path(variables.get("HOME", "/"))
    yield _configuration(variables) / "pip" / "pip.conf"
    yield home / ".pip" / "pip.conf"
    yield Path("/etc/pip.conf")


def _uv_files(variables: Mapping[str, str], project: Path) -> Iterator[Path]:
    if chosen := variables.get("UV_CONFIG_FILE"):
        yield Path(chosen)
        return
    if variables.get("UV_NO_CONFIG"):
        return
    own = project / "uv.toml"
    yield own if own.is_file() else project / "pyproject.toml"  # uv reads one of the two
    yield _configuration(variables) / "uv" / "uv.toml"
    yield Path("/etc/uv/uv.toml")


def _configuration(variables: Mapping[str, str]) -> Path:
    return Path(variables.get("XDG_CONFIG_HOME") or Path(variables.get("HOME", "/"), ".config"))


def _of_pip(file: Path) -> Iterable[str]:
    parser = configparser.RawConfigParser()
    try:
        parser.read(file, encoding="utf-8")
    except (configparser.Error, UnicodeDecodeError, OSError):  # pip's to complain about
        return []
    return [
        word for section in _SECTIONS for word in parser.get(section, "extra-index-url", fallback="").split()
    ]


def _of_uv(file: Path) -> Iterable[str]:
    try:
        document = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # uv's to complain about
        return []
    if file.name == "pyproject.toml":
        document = dict(_table(_table(document, "tool"), "uv"))
    indexes = document.get("index")
    found = [
        index.get("url")
        for index in (indexes if isinstance(indexes, list) else [])
        if isinstance(index, dict) and not index.get("default")
    ]
    for table in (document, _table(document, "pip")):
        extra = table.get("extra-index-url")
        found += extra if isinstance(extra, list) else []
    return [url for url in found if isinstance(url, str)]


def _table(document: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    table = document.get(name)
    return table if isinstance(table, dict) else {}
