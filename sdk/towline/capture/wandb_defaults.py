"""Parameters that a script hands to `wandb.init` as plain values: decisions only, no I/O."""

import ast
import json
from collections.abc import Iterator, Mapping
from typing import Any

from towline.requests.schema_acceptors import acceptor

__all__ = ["defaults_in"]


def defaults_in(script: bytes, schema: Mapping[str, Any]) -> dict[str, Any]:
    """Give the values that stand in a script's one call of `wandb.init(config=…)` and fit a schema.

    Left out is what the script computes; of a script that cannot be parsed, or calls it twice, it is all.
    """
    try:
        calls = list(_calls(ast.parse(script)))
    except (SyntaxError, ValueError, RecursionError):
        return {}
    if len(calls) != 1:
        return {}
    config = next((keyword.value for keyword in calls[0].keywords if keyword.arg == "config"), None)
    known = schema.get("properties")
    found: dict[str, Any] = {}
    for name, node in _members(config):
        value = _plain(node)
        if value is None or (known is not None and name not in known):
            continue
        if known is None or acceptor(known[name])(value):
            found[name] = value
    return found


def _calls(tree: ast.Module) -> Iterator[ast.Call]:
    """Find calls of wandb.init, or of an init that was imported from wandb."""
    names = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "wandb"
        for alias in node.names
        if alias.name == "init"
    }
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Name(id="wandb"), attr="init")):
                yield node
            case ast.Call(func=ast.Name(id=name)) if name in names:
                yield node


def _members(config: ast.expr | None) -> Iterator[tuple[str, ast.expr]]:
    match config:
        case ast.Dict(keys=keys, values=values):
            for key, value in zip(keys, values, strict=True):
                if isinstance(key, ast.Constant) and isinstance(key.value, str):
                    yield key.value, value
        case ast.Call(func=ast.Name(id="dict"), args=[], keywords=keywords):
            for keyword in keywords:
                if keyword.arg:
                    yield keyword.arg, keyword.value


def _plain(node: ast.expr) -> Any:
    """Give a value as JSON holds it; None where it is computed, or JSON has no word for it."""
    try:
        return json.loads(json.dumps(ast.literal_eval(node), allow_nan=False))
    except (ValueError, TypeError, SyntaxError, RecursionError):
        return None
