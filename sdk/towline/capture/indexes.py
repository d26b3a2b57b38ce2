"""Extra package indexes that pip and uv are configured with on this machine."""

import configparser
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

from towline.capture.git import without_credentials

__all__ = ["extra_index_urls"]

_VARIABLES: Final = ("PIP_EXTRA_INDEX_URL", "UV_EXTRA_INDEX_URL", "UV_INDEX")
_SECTIONS: Final = ("global", "install")


def extra_index_urls(variables: Mapping[str, str]) -> list[str]:
    """Give the extra indexes, without user names and passwords, each once, in order of preference.

    Read are pip's and uv's environment variables and pip's configuration files; the main index is the
    business of whoever builds the image.
    """
    found = [word for name in _VARIABLES for word in variables.get(name, "").split()]
    for file in _pip_files(variables):
        found.extend(_configured(file))
    named = (re.sub(r"^[A-Za-z0-9_-]+=", "", word) for word in found)  # uv: name=url
    urls = (without_credentials(url) for url in named if url.startswith(("http://", "https://")))
    return list(dict.fromkeys(urls))


def _pip_files(variables: Mapping[str, str]) -> Iterator[Path]:
    chosen = variables.get("PIP_CONFIG_FILE")
    if chosen:
        if chosen != os.devnull:
            yield Path(chosen)
        return
    if environment := variables.get("VIRTUAL_ENV"):
        yield Path(environment, "pip.conf")
    home = Path(variables.get("HOME", "/"))
    yield Path(variables.get("XDG_CONFIG_HOME") or home / ".config") / "pip" / "pip.conf"
    yield home / ".pip" / "pip.conf"
    yield Path("/etc/pip.conf")


def _configured(file: Path) -> Iterable[str]:
    parser = configparser.RawConfigParser()
    try:
        parser.read(file, encoding="utf-8")
    except (configparser.Error, UnicodeDecodeError, OSError):  # pip's to complain about
        return []
    return [
        word for section in _SECTIONS for word in parser.get(section, "extra-index-url", fallback="").split()
    ]
