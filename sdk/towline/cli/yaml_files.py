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


# As the protos bound a run's parameters.
_MOST_BYTES: Final = 1024 * 1024


class _Loader(yaml.SafeLoader):
    """Knows null, booleans, integers and floats; everything else is text. A key stands once."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - PyYAML's own name

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Check the keys of an object; PyYAML would put in YAML 1.1's merges here, which 1.2 has not."""
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise _Twice(problem=f"has the key {key.value!r} twice", problem_mark=key.start_mark)
                seen.add(key.value)


class _Twice(yaml.MarkedYAMLError):
    """A key stands twice, so that one of its values would be lost."""


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
        InvalidArgument: It is neither, too large, or holds what JSON has no word for; reason INVALID_FIELD.
    """
    if len(text) > _MOST_BYTES:
        raise _too_large(source, len(text.encode()))
    try:
        value = yaml.load(text, _Loader)  # noqa: S506 - a SafeLoader
        _check_json(value, source)
    except _Twice as error:
        raise InvalidArgument.field(source, _located(error)) from None
    except yaml.MarkedYAMLError as error:
        raise InvalidArgument.field(source, f"is neither YAML nor JSON: {_located(error)}") from None
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        problem = " ".join(str(error).split()).replace(' in "<unicode string>",', "")
        raise InvalidArgument.field(source, f"is neither YAML nor JSON: {problem}") from None
    return value


def _check_json(value: Any, source: str) -> None:
    # Piece by piece: a few lines of YAML whose aliases name aliases would fill memory as JSON.
    size = 0
    for piece in json.JSONEncoder(allow_nan=False).iterencode(value):
        size += len(piece)
        if size > _MOST_BYTES:
            raise InvalidArgument.field(source, f"is more than {_mebibytes(_MOST_BYTES)} as JSON; shorten it")


def _located(error: yaml.MarkedYAMLError) -> str:
    mark = error.problem_mark
    problem = " ".join(str(error.problem or error.context or "cannot be read").split())
    return f"{problem} (line {mark.line + 1}, column {mark.column + 1})" if mark else problem


def _mebibytes(size: int) -> str:
    return f"{size / 2**20:.3g} MiB"


def _too_large(source: str, size: int) -> InvalidArgument:
    return InvalidArgument.field(source, f"is {_mebibytes(size)}; at most {_mebibytes(_MOST_BYTES)}")


def read_object(path: Path, option: str) -> dict[str, Any]:
    """Read a file that holds one object.

    Raises:
        InvalidArgument: It cannot be read, is too large, is neither YAML nor JSON, or holds something else.
    """
    source = f"{option} {path}"
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
            if len(content) > _MOST_BYTES:
                raise _too_large(source, max(path.stat().st_size, len(content)))
        value = load(content.decode(), source)
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
