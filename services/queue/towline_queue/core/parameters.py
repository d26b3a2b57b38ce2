"""Parameters of a run: the job's defaults, overridden by the submission, checked against the job's schema.

What both leave out has the default that the schema says.
"""

from collections.abc import Iterator, Mapping
from typing import Final

from towline.requests.json_schemas import Schema
from towline.requests.json_values import Json, dump, parse
from towline.requests.violations import Violations
from towline_queue.core.schema_defaults import SchemaDefaults, TooManyDefaults

__all__ = ["MAX_BYTES", "Parameters", "merge"]

MAX_BYTES: Final = 1024 * 1024
"""Bound of a parameter text in bytes, before and after the merge."""
# No character has more than four bytes: most texts need not be encoded to know.
_SURELY_FITS: Final = MAX_BYTES // 4


class Parameters:
    """What the parameters of one job version may be.

    Args:
        defaults_json: The job's parameters, the text of a JSON object; empty: "{}".
        schema_json: JSON Schema of the whole parameters; empty: everything is allowed.
        files: Parameters that are the content of configuration files, and these files.

    Raises:
        ValueError: They are not what the registry takes.
    """

    def __init__(self, defaults_json: str, schema_json: str, files: Mapping[str, str] | None = None) -> None:
        self._defaults = parse(defaults_json or "{}")
        self._schema = Schema(schema_json) if schema_json else None
        self._files = files or {}
        left_out = SchemaDefaults(parse(schema_json)) if schema_json else None
        self._left_out = left_out if left_out and left_out.any else None
        # An object that has these keys is whole without a merge.
        self._keys = None
        if isinstance(self._defaults, dict) and dict not in map(type, self._defaults.values()):
            self._keys = self._defaults.keys()

    def resolve(self, overrides_json: str, prefix: str = "") -> str:
        """Return the whole parameters as the text of a JSON object.

        Args:
            overrides_json: The text of a JSON object; empty: none.
            prefix: Put before each path in an error, such as "runs[3].".

        Raises:
            InvalidArgument: With all violations by path; reason INVALID_CONFIG.
        """
        try:
            overrides = _object(overrides_json or "{}")
        except ValueError as error:
            violations = Violations("INVALID_CONFIG")
            violations.add("config_json", str(error))
            violations.check(prefix)
            raise
        whole = self._keys is not None and self._keys <= overrides.keys()
        given = overrides if whole else merge(self._defaults, overrides)
        config = self._filled(given, prefix) if self._left_out else given
        text = (overrides_json or "{}") if config is overrides else dump(config)
        fits = self._schema is None or self._schema.accepts(config)
        larger = text is not overrides_json and _larger(text)
        if larger or not fits or (self._files and any(self._no_content(config))):
            self._explain(config, text, prefix)
        return text

    def _filled(self, config: Json, prefix: str) -> Json:
        assert self._left_out is not None  # noqa: S101 - asked before
        try:
            return self._left_out.filled(config)
        except TooManyDefaults:
            violations = Violations("INVALID_CONFIG")
            violations.add("config_json", "cannot be filled in: the defaults of the job's schema do not end")
            violations.check(prefix)
            raise

    def _no_content(self, config: Json) -> Iterator[str]:
        """Give the parameters that cannot be the content of their configuration files."""
        for key in self._files:
            if isinstance(config, dict) and not isinstance(config.get(key, {}), dict):
                yield key

    def _explain(self, config: Json, text: str, prefix: str) -> None:
        """Raise all that is wrong with the whole parameters, if anything is."""
        violations = Violations("INVALID_CONFIG")
        for path, problem in self._schema.violations(config) if self._schema else ():
            violations.add(path or "config_json", problem)
        for key in self._no_content(config):
            violations.add(key, f"must be an object: it is the content of {self._files[key]}")
        if _larger(text):
            violations.add(
                "config_json", f"is larger than {MAX_BYTES} bytes after the merge with the defaults"
            )
        violations.check(prefix)


def merge(defaults: Json, overrides: Json) -> Json:
    """Put overrides over defaults: objects merge key by key at any depth, everything else replaces."""
    if not isinstance(defaults, dict) or not isinstance(overrides, dict):
        return overrides
    merged = dict(defaults)
    for key, value in overrides.items():
        merged[key] = merge(merged[key], value) if key in merged else value
    return merged


def _object(text: str) -> dict[str, Json]:
    if _larger(text):
        raise ValueError(f"is larger than {MAX_BYTES} bytes; keep data in an artifact instead")
    value = parse(text)
    if not isinstance(value, dict):
        raise ValueError('must be an object, such as {"epochs": 3}')
    return value


def _larger(text: str) -> bool:
    return len(text) > _SURELY_FITS and len(text.encode()) > MAX_BYTES
