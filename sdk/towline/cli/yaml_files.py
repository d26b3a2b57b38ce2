"""YAML as people expect it in parameters: YAML 1.2's core schema, whose values are exactly JSON's.

PyYAML reads YAML 1.1, where `1e-3` is text, `no` is false, `010` is eight and `12:30` is a number.
"""

import json
import re
from pathlib import Path
from typing import Any, Final

import yaml

from towline.errors import InvalidArgument

__all__ = ["dump", "load", "read_object"]


class _Loader(yaml.SafeLoader):
    """Knows null, booleans, integers and floats; everything else is text."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - PyYAML's own name


_SCALARS: Final = {
    "null": r"~|null|Null|NULL|",
    "bool": r"true|True|TRUE|false|False|FALSE",
    "int": r"[-+]?(0|[1-9][0-9]*)|0o[0-7]+|0x[0-9a-fA-F]+",
    "float": r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*)([eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+",
}
for _tag, _pattern in _SCALARS.items():
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), None)


def load(text: str, source: str) -> Any:
    """Read one YAML or JSON document.

    Args:
        text: The document.
        source: Where it is from, for the message.

    Raises:
        InvalidArgument: It is neither, or holds what JSON has no word for; reason INVALID_FIELD.
    """
    try:
        value = yaml.load(text, _Loader)  # noqa: S506 - a SafeLoader
        json.dumps(value, allow_nan=False)
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        problem = " ".join(str(error).split())
        raise InvalidArgument.field(source, f"is neither YAML nor JSON: {problem}") from None
    return value


def read_object(path: Path, option: str) -> dict[str, Any]:
    """Read a file that holds one object.

    Raises:
        InvalidArgument: It cannot be read, is neither YAML nor JSON, or holds something else.
    """
    source = f"{option} {path}"
    try:
        value = load(path.read_text(encoding="utf-8"), source)
    except OSError as error:
        raise InvalidArgument.field(source, f"cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise InvalidArgument.field(source, "is no text in UTF-8") from None
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidArgument.field(source, "must hold an object (key: value), not a list or a single value")
    return value


def dump(value: Any) -> str:
    """Write a value as YAML that `load` reads as the same value."""
    text: str = yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
    return text


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as blocks."""


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    # The dumper quotes what YAML 1.1 would read as something else; these are 1.2's.
    quoted = '"' if re.fullmatch("|".join(_SCALARS.values()), value) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else quoted)


_Dumper.add_representer(str, _text)
