"""What people write after --set, --var, --label, --input and --retries, read into values. No I/O."""

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

from towline import names
from towline.cli import yaml_files
from towline.client import shorthand
from towline.client.policies import CAUSES
from towline.errors import InvalidArgument

__all__ = ["inputs", "merged", "pairs", "retries", "settings", "variables"]

# As the proto bounds a budget.
MOST_RETRIES: Final = 1000


def pairs(texts: Iterable[str], option: str) -> dict[str, str]:
    """Split "key=value" texts.

    Raises:
        InvalidArgument: Some have no "=" or no key, or a key stands twice; all of them are named.
    """
    split = [text.partition("=") for text in texts]
    wrong = [text for text, (key, equals, _) in zip(texts, split, strict=True) if not (key and equals)]
    if wrong:
        raise InvalidArgument.field(option, f"write key=value, not {', '.join(map(repr, wrong))}")
    keys = [key for key, _, _ in split]
    if twice := sorted({key for key in keys if keys.count(key) > 1}):
        raise InvalidArgument.field(option, f"given twice: {', '.join(map(repr, twice))}; give one value")
    return {key: value for key, _, value in split}


def settings(texts: Iterable[str]) -> dict[str, Any]:
    """Read --set key=value: YAML values, dots in keys nest.

    Raises:
        InvalidArgument: A text or value cannot be read, or a key is both a value and an object.
    """
    whole: dict[str, Any] = {}
    for path, text in pairs(texts, "--set").items():
        *parents, key = path.split(".")
        if not key or not all(parents):
            raise InvalidArgument.field("--set", f"{path!r} has an empty part between its dots")
        inner = whole
        for parent in parents:
            inner = inner.setdefault(parent, {})
            if not isinstance(inner, dict):
                raise InvalidArgument.field("--set", f"{path!r}: {parent!r} was given a value of its own")
        inner[key] = yaml_files.load(text, f"--set {path}")
    return whole


def variables(texts: Iterable[str], gpus: int | None) -> dict[str, str]:
    """Read --var name=value into JSON texts; --gpus N stands for --var gpus=N.

    Raises:
        InvalidArgument: A text or value cannot be read, or both say how many GPUs.
    """
    values = {
        name: json.dumps(yaml_files.load(text, f"--var {name}"))
        for name, text in pairs(texts, "--var").items()
    }
    if gpus is None:
        return values
    if "gpus" in values:
        raise InvalidArgument.field("--gpus", "--var gpus says it too; give one of them")
    return values | {"gpus": str(gpus)}


def inputs(texts: Iterable[str]) -> dict[str, str]:
    """Read --input name=artifact or name=artifact:version into artifact versions, by version or alias.

    Raises:
        InvalidArgument: A text cannot be read, or a name is given twice.
    """
    found: dict[str, str] = {}
    for name, artifact in pairs(texts, "--input").items():
        try:
            found[names.input_name(name, "NAME")] = shorthand.artifact_version(artifact)
        except InvalidArgument as error:
            raise InvalidArgument.field("--input", f"{name}={artifact}: {error.message}") from None
    return found


def retries(texts: Iterable[str]) -> dict[str, int]:
    """Read --retries N, which is about the program's own errors, and --retries CAUSE=N.

    Raises:
        InvalidArgument: A text cannot be read, there is no such cause, or one is given twice.
    """
    found: dict[str, int] = {}
    for text in texts:
        cause, equals, count = text.rpartition("=")
        word = cause.lower().replace("-", "_") if equals else "user_error"
        if word not in CAUSES:
            raise InvalidArgument.field("--retries", f"{cause!r} is none of {', '.join(CAUSES)}")
        if not count.isdecimal() or int(count) > MOST_RETRIES:
            raise InvalidArgument.field(
                "--retries", f"write N or CAUSE=N with N from 0 to {MOST_RETRIES:,}, not {text!r}"
            )
        if word in found:
            raise InvalidArgument.field("--retries", f"given twice for {word}; give one number")
        found[word] = int(count)
    return found


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Put one object over another: objects merge key by key, everything else replaces."""
    result = dict(base)
    for key, value in over.items():
        below = result.get(key)
        result[key] = merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return result
