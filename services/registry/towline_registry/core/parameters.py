"""What a run of a job is given: its parameters, the files they are written to, the artifacts it reads."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from towline import names
from towline.v1.jobs_pb2 import ArtifactInput, ConfigFile, JobSpec
from towline_registry.core import json_objects, schemas, texts
from towline_registry.core.findings import Findings

__all__ = ["complete"]

MAX_INPUTS: Final = 64
MAX_CONFIG_FILES: Final = 64
MAX_KEY_CHARACTERS: Final = 256

_CONFIG: Final = "spec.config_json"
_SUFFIXES: Final = (".json", ".yaml", ".yml")


def complete(spec: JobSpec, findings: Findings) -> None:
    """Find what is wrong with what a run is given, and fill in the parameters and their schema."""
    spec.config_json = spec.config_json or "{}"
    config: json_objects.JsonObject | None = None
    with findings.gathering():
        config = json_objects.read(spec.config_json, _CONFIG)
    _complete_schema(spec, config, findings)
    _check_inputs(spec.inputs, findings)
    if spec.config_files and spec.WhichOneof("source") == "image":
        findings.add("spec.config_files", "an image has no source tree; leave them out")
    else:
        _check_config_files(spec.config_files, config, findings)


def _complete_schema(spec: JobSpec, config: json_objects.JsonObject | None, findings: Findings) -> None:
    if not spec.input_schema_json:
        if config is not None:
            spec.input_schema_json = json_objects.canonical(schemas.derived(config))
        return
    with findings.gathering():
        schema = schemas.read(spec.input_schema_json, "spec.input_schema_json")
        if config is not None:
            for path, problem in schemas.misfits(schema, config, "spec.input_schema_json"):
                findings.add(f"{_CONFIG}.{path}" if path else _CONFIG, f"the default does not fit: {problem}")


def _check_inputs(inputs: Sequence[ArtifactInput], findings: Findings) -> None:
    if len(inputs) > MAX_INPUTS:
        findings.add("spec.inputs", f"{len(inputs)} are too many; at most {MAX_INPUTS} are taken")
    seen: set[str] = set()
    for index, each in enumerate(inputs[:MAX_INPUTS]):
        path = f"spec.inputs[{index}]"
        with findings.gathering():
            names.input_name(each.name, f"{path}.name")
        if each.name in seen:
            findings.add(f"{path}.name", f"{each.name[:80]!r} comes twice; give each input a name of its own")
        seen.add(each.name)
        with findings.gathering():
            names.artifact_version(each.artifact, f"{path}.artifact")


def _check_config_files(
    files: Sequence[ConfigFile], config: Mapping[str, Any] | None, findings: Findings
) -> None:
    if len(files) > MAX_CONFIG_FILES:
        findings.add("spec.config_files", f"{len(files)} are too many; at most {MAX_CONFIG_FILES} are taken")
    paths: set[str] = set()
    keys: set[str] = set()
    for index, file in enumerate(files[:MAX_CONFIG_FILES]):
        field = f"spec.config_files[{index}]"
        with findings.gathering():
            texts.relative_path(file.path, f"{field}.path")
            if not file.path.endswith(_SUFFIXES):
                findings.add(
                    f"{field}.path",
                    f"{file.path[-80:]!r} does not end in {', '.join(_SUFFIXES)}; others are not written",
                )
        if file.path in paths:
            findings.add(f"{field}.path", f"{file.path[-80:]!r} comes twice; a file has one key")
        if file.key in keys:
            findings.add(f"{field}.key", f"{file.key[:80]!r} comes twice; a key has one file")
        paths.add(file.path)
        keys.add(file.key)
        with findings.gathering():
            texts.bounded(file.key, f"{field}.key", MAX_KEY_CHARACTERS)
            if config is not None and not isinstance(config.get(file.key), dict):
                findings.add(
                    f"{field}.key", f"{file.key!r} is no object in config_json; put the file's content there"
                )
