"""Command lines as parameters, and back.

A recorded command line keeps, in place of each value that is a parameter, a placeholder with the value as it
was typed: `--lr ${config.lr=1e-3}`. In a container `towline.runtime.replay` puts the run's parameters into
their places. One that still has the recorded value is written as it was typed, so an unchanged replay has the
very same command line.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

__all__ = ["PREFIX", "Template", "filled", "templated", "templated_papermill"]

PREFIX: Final = ("python", "-m", "towline.runtime.replay", "--")
"""What stands before a command line with placeholders."""

_PLACEHOLDER: Final = re.compile(r"\$\{config\.([\w.-]+)(\*?)=([^}]*)\}")
_OPTION: Final = re.compile(r"--([A-Za-z][\w.-]*)")
_OPTION_WITH_VALUE: Final = re.compile(r"(--([A-Za-z][\w.-]*)=)(.*)", re.DOTALL)
_OVERRIDE: Final = re.compile(r"(\+{0,2}([A-Za-z_]\w*(?:\.\w+)*)=)(.*)", re.DOTALL)
_INTEGER: Final = re.compile(r"-?(0|[1-9]\d*)")
_NUMBER: Final = re.compile(r"-?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_BOOLEANS: Final = {"true": True, "false": False, "True": True, "False": False}


class Template(NamedTuple):
    """A command line whose values are parameters."""

    words: list[str]
    """With placeholders."""
    config: dict[str, Any]
    """The parameters as they were typed; nested where a name has dots."""


class _Found(NamedTuple):
    """A value that may be a parameter."""

    at: int
    """Place of the first word that holds it."""
    name: str
    """The parameter, with dots where it is nested."""
    before: str
    """What stands before the value in its word, such as "--lr="."""
    values: list[str]
    """As typed; several, if they are a list."""
    is_list: bool = False


def templated(words: Sequence[str]) -> Template:
    """Take the parameters out of the arguments of a program.

    Understood are `--name value`, `--name=value`, several numbers behind a name, which are a list, and
    `name.inner=value` as hydra has it. Everything else stays as it is: flags, short options, positional
    arguments, a name that comes twice, and a value followed by words of which nobody but the program knows
    whether they belong to it.
    """
    return _template(words, _options(words))


def templated_papermill(words: Sequence[str]) -> Template:
    """Take the parameters out of the arguments of papermill: `-p name value` and `-r name value`."""
    names = {"-p", "--parameters", "-r", "--parameters_raw"}
    found = [
        _Found(at + 2, words[at + 1], "", [words[at + 2]])
        for at in range(len(words) - 2)
        if words[at] in names and re.fullmatch(r"[A-Za-z_]\w*", words[at + 1])
    ]
    return _template(words, found)


def filled(words: Sequence[str], config: Mapping[str, Any]) -> list[str]:
    """Put parameters into a command line; one that `config` lacks has the value that was typed."""

    def written(match: re.Match[str]) -> str:
        return _text(_lookup(config, match[1]), match[3])

    result: list[str] = []
    for word in words:
        match = _PLACEHOLDER.fullmatch(word)
        if match and match[2]:
            typed = match[3].split(" ")
            now = _lookup(config, match[1])
            items = now if isinstance(now, list) else typed if now is None else [now]
            same = len(items) == len(typed)
            result.extend(_text(item, typed[at] if same else "") for at, item in enumerate(items))
        else:
            result.append(_PLACEHOLDER.sub(written, word))
    return result


def _options(words: Sequence[str]) -> Iterator[_Found]:
    at = 0
    while at < len(words) and words[at] != "--":
        if match := _OPTION_WITH_VALUE.fullmatch(words[at]):
            yield _Found(at, match[2].replace("-", "_"), match[1], [match[3]])
        elif match := _OPTION.fullmatch(words[at]):
            values = _values_behind(words, at + 1)
            if len(values) == 1 or (values and all(_NUMBER.fullmatch(value) for value in values)):
                yield _Found(at + 1, match[1].replace("-", "_"), "", values, is_list=len(values) > 1)
            at += len(values)
        elif not words[at].startswith("-") and (match := _OVERRIDE.fullmatch(words[at])):
            yield _Found(at, match[2], match[1], [match[3]])
        at += 1


def _values_behind(words: Sequence[str], start: int) -> list[str]:
    """Give the words behind an option that may be its values."""
    end = start
    while end < len(words):
        word = words[end]
        if (word.startswith("-") and not _NUMBER.fullmatch(word)) or _OVERRIDE.fullmatch(word):
            break
        end += 1
    return list(words[start:end])


def _template(words: Sequence[str], found: Iterator[_Found] | Sequence[_Found]) -> Template:
    template = Template(list(words), {})
    if any("${config." in word for word in words):  # somebody else's placeholders
        return template
    candidates = [each for each in found if all(map(_may_be_kept, each.values))]
    names = [each.name for each in candidates]
    for each in sorted(candidates, key=lambda each: each.at, reverse=True):
        above = any(name.startswith(f"{each.name}.") for name in names)
        if names.count(each.name) > 1 or above or not all(each.name.split(".")):
            continue
        placeholder = f"${{config.{each.name}{'*' if each.is_list else ''}={' '.join(each.values)}}}"
        template.words[each.at : each.at + len(each.values)] = [each.before + placeholder]
        *folders, last = each.name.split(".")
        place = template.config
        for folder in folders:
            place = place.setdefault(folder, {})
        values = [_value(text) for text in each.values]
        place[last] = values if each.is_list else values[0]
    return template


def _may_be_kept(text: str) -> bool:
    """Say whether a placeholder can hold a value: no brace, no byte that is not UTF-8, no line break."""
    return not re.search("[{}\n\r\0\ud800-\udfff]", text)


def _value(text: str) -> Any:
    """Read a value as its writer most likely meant it."""
    if text in _BOOLEANS:
        return _BOOLEANS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    return float(text) if _NUMBER.fullmatch(text) and not re.match(r"-?0\d", text) else text


def _lookup(config: Mapping[str, Any], name: str) -> Any:
    value: Any = config
    for word in name.split("."):
        if not isinstance(value, Mapping) or word not in value:
            return None
        value = value[word]
    return value


def _text(value: Any, typed: str) -> str:
    """Write a value for a command line; as it was typed where it is still that one."""
    before = _value(typed)
    if value is None or (value == before and isinstance(value, bool) == isinstance(before, bool)):
        return typed
    if isinstance(value, bool):
        return str(value) if typed in ("True", "False") else str(value).lower()
    if isinstance(value, str):
        return value
    return json.dumps(value) if isinstance(value, (list, dict)) else str(value)
