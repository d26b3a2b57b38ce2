"""What W&B keeps in the metadata of a job's artifact: managed inputs. Decisions only, no I/O."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from towline.capture.wandb_job import OPEN_SCHEMA, safe_name, translated
from towline.capture.wandb_notes import Notes, wrong
from towline.capture.wandb_types import is_empty

__all__ = ["Metadata", "defaults_of", "read_metadata"]

_CONFIG: Final = "@wandb.config"


@dataclass(frozen=True)
class Metadata:
    """What the metadata tells."""

    name: str = ""
    """Of the job; empty: it is not told."""
    input_schema: Mapping[str, Any] | None = None
    """Of the parameters that may be set; None: it is not told."""
    result_schema: Mapping[str, Any] | None = None
    files: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Configuration files whose content is an input: schemas by path."""


def read_metadata(written: Any, file: str, notes: Notes) -> Metadata:
    """Read the metadata of a job's artifact, or a description of it that has "name" and "metadata".

    Raises:
        InvalidArgument: It is neither; the message names `file` and the field.
    """
    if not isinstance(written, dict):
        raise wrong(file, "", "must hold a JSON object: the metadata of the job's artifact")
    said, name = written, ""
    if "metadata" in written:
        name = str(written.get("name") or "").partition(":")[0]
        said = written["metadata"] or {}
    types, schemas = _objects(said, file, "input_types"), _objects(said, file, "input_schemas")
    output = said.get("output_types") or {}
    result = None if is_empty(output) or not output else translated(output, "output_types", notes)
    safe = safe_name(name)
    if safe != name:
        notes.repair("name", f"{name!r} is called {safe!r}")
    return Metadata(
        safe,
        _merged_schema(file, _CONFIG, types.get(_CONFIG), schemas.get(_CONFIG), notes),
        result,
        {
            path: _merged_schema(
                file, f"files.{path}", kind, _objects(schemas, file, "files").get(path), notes
            )
            or OPEN_SCHEMA
            for path, kind in _objects(types, file, "files").items()
        },
    )


def _objects(said: Any, file: str, key: str) -> dict[str, Any]:
    value = said.get(key, {}) if isinstance(said, dict) else said
    if not isinstance(value, dict):
        raise wrong(file, f"metadata.{key}", "must be an object")
    return value


def _merged_schema(file: str, place: str, kind: Any, schema: Any, notes: Notes) -> Mapping[str, Any] | None:
    """Put a schema that people wrote over what W&B saw of the types."""
    if kind is None and schema is None:
        return None
    base = OPEN_SCHEMA if kind is None or is_empty(kind) else translated(kind, f"input_types.{place}", notes)
    if schema is None:
        return base
    if not isinstance(schema, dict):
        raise wrong(file, f"input_schemas.{place}", "must be an object: a JSON Schema")
    return _over(base, schema, f"input_schemas.{place}", notes)


def _over(base: Mapping[str, Any], schema: Mapping[str, Any], place: str, notes: Notes) -> dict[str, Any]:
    merged = dict(schema)
    # The program has values of its own for what a submission leaves out.
    if merged.pop("required", None):
        notes.repair(f"{place}.required", "nothing has to be set: the program has its own values")
    inner = schema.get("properties")
    known = base.get("properties", {})
    if isinstance(inner, dict):
        merged["properties"] = {
            **known,
            **{
                key: _over(known.get(key, {}), each, f"{place}.{key}", notes)
                if isinstance(each, dict)
                else each
                for key, each in inner.items()
            },
        }
        if "additionalProperties" in base:
            merged.setdefault("additionalProperties", base["additionalProperties"])
    return merged


def defaults_of(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Give the values that a schema's properties have as "default", nested as they are."""
    found: dict[str, Any] = {}
    properties = schema.get("properties")
    for key, each in properties.items() if isinstance(properties, dict) else ():
        if not isinstance(each, dict):
            continue
        if "default" in each:
            found[key] = each["default"]
        elif inner := defaults_of(each):
            found[key] = inner
    return found
