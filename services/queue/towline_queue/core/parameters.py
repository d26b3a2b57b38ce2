"""Parameters of a run: the job's defaults, overridden by the submission, checked against the job's schema."""

from typing import Final

from towline.requests.json_schemas import Schema
from towline.requests.json_values import Json, dump, parse
from towline_queue.core.violations import Violations

__all__ = ["MAX_BYTES", "Parameters", "merge"]

MAX_BYTES: Final = 1024 * 1024
"""Bound of a parameter text in bytes, before and after the merge."""


class Parameters:
    """What the parameters of one job version may be.

    Args:
        defaults_json: The job's parameters, the text of a JSON object; empty: "{}".
        schema_json: JSON Schema of the whole parameters; empty: everything is allowed.

    Raises:
        ValueError: They are not what the registry takes.
    """

    def __init__(self, defaults_json: str, schema_json: str) -> None:
        self._defaults = parse(defaults_json or "{}")
        self._schema = Schema(schema_json or "{}")

    def resolve(self, overrides_json: str, prefix: str = "") -> str:
        """Return the whole parameters as the text of a JSON object.

        Args:
            overrides_json: The text of a JSON object; empty: none.
            prefix: Put before each path in an error, such as "runs[3].".

        Raises:
            InvalidArgument: With all violations by path; reason INVALID_CONFIG.
        """
        violations = Violations("INVALID_CONFIG")
        overrides = _object(overrides_json, violations)
        violations.check(prefix)
        config = merge(self._defaults, overrides)
        for path, problem in self._schema.violations(config):
            violations.add(path or "config_json", problem)
        text = dump(config)
        if len(text.encode()) > MAX_BYTES:
            violations.add(
                "config_json", f"is larger than {MAX_BYTES} bytes after the merge with the defaults"
            )
        violations.check(prefix)
        return text


def merge(defaults: Json, overrides: Json) -> Json:
    """Put overrides over defaults: objects merge key by key at any depth, everything else replaces."""
    if not isinstance(defaults, dict) or not isinstance(overrides, dict):
        return overrides
    merged = dict(defaults)
    for key, value in overrides.items():
        merged[key] = merge(merged[key], value) if key in merged else value
    return merged


def _object(text: str, violations: Violations) -> dict[str, Json]:
    if len(text.encode()) > MAX_BYTES:
        violations.add("config_json", f"is larger than {MAX_BYTES} bytes; keep data in an artifact instead")
        return {}
    try:
        value = parse(text or "{}")
    except ValueError as error:
        violations.add("config_json", str(error))
        return {}
    if not isinstance(value, dict):
        violations.add("config_json", 'must be an object, such as {"epochs": 3}')
        return {}
    return value
