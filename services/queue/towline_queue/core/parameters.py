"""Parameters of a run: the job's defaults, overridden by the submission, checked against the job's schema.

What both leave out has the default that the schema says.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from towline.requests.json_schemas import Schema
from towline.requests.json_values import Json, dump, parse, parse_flat_objects
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

    def resolve_all(self, overrides_json: Sequence[str], prefix: str = "") -> Sequence[str]:
        """Do what `resolve` does for the parameters of many runs; most are seen to be right at once."""
        if self._are_whole(overrides_json):
            return overrides_json
        return [self.resolve(each, prefix) for each in overrides_json]

    def resolve(self, overrides_json: str, prefix: str = "") -> str:
        """Return the whole parameters as the text of a JSON object.

        Args:
            overrides_json: The text of a JSON object; empty: none.
            prefix: Put before each path in an error, such as "runs[3].".

        Raises:
            InvalidArgument: With all violations by path; reason INVALID_CONFIG.
        """
        given = overrides_json or "{}"
        try:
            overrides = _object(given)
        except ValueError as error:
            violations = Violations("INVALID_CONFIG")
            violations.add("config_json", str(error))
            violations.check(prefix)
            raise
        config: Json = overrides
        if self._keys is None or not self._keys <= overrides.keys():
            config = merge(self._defaults, overrides)
        if self._left_out:
            config = self._filled(config, prefix)
        text = given if config is overrides else dump(config)
        wrong = self._schema is not None and not self._schema.accepts(config)
        if wrong or (text is not given and _larger(text)) or (self._files and any(self._no_content(config))):
            self._explain(config, text, prefix)
        return text

    def _are_whole(self, texts: Sequence[str]) -> bool:
        """Tell whether texts are right as they stand; not of all that are."""
        if self._keys is None or self._left_out or self._files or sum(map(len, texts)) > _SURELY_FITS:
            return False
        read = parse_flat_objects(texts)
        if read is None or not all(self._keys <= each.keys() for each in read):
            return False
        return self._schema is None or all(map(self._schema.accepts, read))

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
    if len(text) > _SURELY_FITS and _larger(text):
        raise ValueError(f"is larger than {MAX_BYTES} bytes; keep data in an artifact instead")
    value = parse(text)
    if type(value) is not dict:
        raise ValueError('must be an object, such as {"epochs": 3}')
    return value


def _larger(text: str) -> bool:
    return len(text) > _SURELY_FITS and len(text.encode()) > MAX_BYTES
