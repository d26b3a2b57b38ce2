"""What an environment.yml of conda asks for, and how that is installed; see towline_agent.conda_install."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import unquote, urlsplit, urlunsplit

import yaml

from towline.errors import InvalidArgument
from towline_agent.core.locks import FOLDER, Locked

__all__ = ["Channels", "logins_file", "read_environment"]

_ALIAS: Final = "https://conda.anaconda.org"
# What conda means by this word.
_DEFAULTS: Final = ("https://repo.anaconda.com/pkgs/main", "https://repo.anaconda.com/pkgs/r")
_NAME: Final = re.compile(r"(?:(?P<channel>[^\s]+)::)?(?P<name>[A-Za-z0-9_.-]+)")
_PLAN: Final = "conda.json"
# Far more than environments have. Aliases make much of little, and the agent has one memory for all runs.
_MOST_BYTES: Final = 1024**2
_MOST_ENTRIES: Final = 5000
_MOST_CHARACTERS: Final = 4096
_INSTALL: Final = "RATTLER_AUTH_FILE=/towline/conda-logins.json python3 /towline/conda_install.py"


@dataclass(frozen=True)
class Channels:
    """Channels of an agent, credentials and all."""

    by_name: Mapping[str, str] = field(default_factory=dict)
    """URLs by the names that environments use; others are those of anaconda.org."""
    cuda: str = ""
    """Newest version of CUDA that the node's driver serves, "X.Y"; empty: it has no GPU."""

    @property
    def id(self) -> str:
        """Name what they change in what is installed: not their credentials."""
        return json.dumps([{name: _bare(url) for name, url in sorted(self.by_name.items())}, self.cuda])

    @property
    def urls(self) -> tuple[str, ...]:
        """Return the URLs that are configured."""
        return tuple(self.by_name.values())

    def resolve(self, name: str) -> tuple[str, ...]:
        """Return the URLs of a channel as an environment names it, without credentials."""
        if name in self.by_name:
            return (_bare(self.by_name[name]),)
        if "://" in name:
            return (_bare(name).rstrip("/"),)
        return _DEFAULTS if name == "defaults" else (f"{_ALIAS}/{name}",)


def read_environment(path: str, content: bytes, python: str, channels: Channels) -> Locked | None:
    """Plan the installation of an environment.yml; None where conda has nothing to do but bring Python.

    Args:
        path: Of the file, for people.
        content: Of the file.
        python: The job's interpreter, "X.Y", where the file names none.
        channels: Where packages come from.

    Raises:
        InvalidArgument: It is no such file (reason INVALID_LOCK).
    """
    if len(content) > _MOST_BYTES:
        raise _invalid(f"{path} is too large for an environment of conda")
    try:
        document = yaml.safe_load(content)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise _invalid(f"{path} is no YAML: {' '.join(str(error).split())}") from None
    entries = document.get("dependencies") if isinstance(document, dict) else None
    if not isinstance(entries, list):
        raise _invalid(f"{path} is no environment of conda: it has no list of dependencies")
    entries = [entry for entry in entries if not isinstance(entry, dict)]
    specs = [spec.strip() for spec in _texts(path, "dependencies", entries)]
    names = {_name(path, spec) for spec in specs}
    variables = _variables(path, document)
    if names <= {"python", "pip"} and not variables:
        return None
    if "python" not in names:
        specs.append(f"python {python}.*")
    wanted = document.get("channels") or ["conda-forge"]
    if not isinstance(wanted, list):
        raise _invalid(f"{path}: its channels are no list of names or URLs")
    named = [name for name in _texts(path, "channels", wanted) if name != "nodefaults"]
    plan = {
        "channels": [url for name in named for url in channels.resolve(name)],
        "specs": [_with_url(spec, channels) for spec in specs],
        "variables": variables,
        "cuda": channels.cuda,
    }
    files = {_PLAN: json.dumps(plan, sort_keys=True).encode()}
    return Locked(f"{_INSTALL} {FOLDER}/{_PLAN}", files=files, makes_prefix=True)


def logins_file(urls: Sequence[str]) -> bytes:
    """Write the logins of servers as conda's installer reads them."""
    logins = {}
    for url in map(urlsplit, urls):
        if url.username is not None and url.hostname:
            login = {"username": unquote(url.username), "password": unquote(url.password or "")}
            logins[url.hostname] = {"BasicHTTP": login}
    return json.dumps(logins).encode()


def _name(path: str, spec: str) -> str:
    found = _NAME.match(spec)
    if found is None:
        raise _invalid(f"{path}: {spec[:80]!r} is no package of conda; write name=version")
    return found["name"].lower()


def _with_url(spec: str, channels: Channels) -> str:
    channel, colons, rest = spec.rpartition("::")
    return f"{channels.resolve(channel)[0]}::{rest}" if colons else spec


def _variables(path: str, document: Mapping[str, Any]) -> dict[str, str]:
    variables = document.get("variables") or {}
    if not isinstance(variables, dict):
        raise _invalid(f"{path}: variables are no list of names with values")
    names = _texts(path, "variables", list(variables))
    return dict(zip(names, _texts(path, "variables", list(variables.values())), strict=True))


def _texts(path: str, what: str, values: Sequence[Any]) -> list[str]:
    if len(values) > _MOST_ENTRIES:
        raise _invalid(f"{path}: {len(values)} {what} are too many; at most {_MOST_ENTRIES} are taken")
    return [_text(path, what, value) for value in values]


def _text(path: str, what: str, value: Any) -> str:
    # What has parts may be far longer in writing than it is in the file.
    if not isinstance(value, list | dict | set):
        try:
            text = str(value)
        except ValueError:  # a number of more digits than Python writes
            text = " " * (_MOST_CHARACTERS + 1)
        if len(text) <= _MOST_CHARACTERS:
            return text
    raise _invalid(f"{path}: one of its {what} is no text of at most {_MOST_CHARACTERS} characters")


def _bare(url: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _invalid(problem: str) -> InvalidArgument:
    return InvalidArgument(problem, reason="INVALID_LOCK")
