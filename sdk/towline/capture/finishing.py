"""What was captured when a program started, and what it has left when it ended, put together."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from towline import names
from towline.capture import config_files, results
from towline.capture.leavings import Leavings
from towline.capture.record import Captured
from towline.capture.records import Record
from towline.runtime.config import merged

__all__ = ["finish"]


def finish(captured: Captured, left: Leavings, guessed: Mapping[str, Any]) -> tuple[Record, list[str]]:
    """Make the record of a run, without who made it and when, and lines for people about what is not in it.

    Args:
        captured: In the folder that becomes the record.
        left: By the program.
        guessed: Parameters that were seen on the command line; what the program says of them goes over it.

    Raises:
        InvalidArgument: The name of the job is none.
    """
    from google.protobuf import json_format  # noqa: PLC0415 - loaded at the end of a recording

    from towline.v1 import jobs_pb2  # noqa: PLC0415 - likewise

    job = names.job(f"jobs/{(left.job or captured.job).removeprefix('jobs/')}")
    told = merged(guessed, left.config)
    files = config_files.read(left.config_files, captured.snapshot, told)
    parameters = {**told, **files.contents}
    with captured.archive.open("rb") as archive:
        spec = captured.spec(f"sha256:{hashlib.file_digest(archive, 'sha256').hexdigest()}")
    spec.config_json = json.dumps(parameters, sort_keys=True)
    if left.schema:
        spec.input_schema_json = json.dumps(results.covering(left.schema, parameters))
    elif guessed:
        spec.input_schema_json = json.dumps(results.tracked(parameters, _only(guessed, left.config)))
    if left.summary:
        spec.provenance.result_schema_json = json.dumps(results.schema_of(left.summary))
    for name, artifact in sorted(left.inputs.items()):
        spec.inputs.append(jobs_pb2.ArtifactInput(name=name, artifact=artifact))
    for key, path in sorted(files.paths.items()):
        spec.config_files.append(jobs_pb2.ConfigFile(path=path, key=key))
    folder = captured.archive.parent
    record = Record(
        job=job.removeprefix("jobs/"),
        spec=json_format.MessageToDict(spec, preserving_proto_field_name=True),
        blobs=[str(file.relative_to(folder)) for file in (captured.archive, *captured.wheels)],
        logged=left.logged,
        uses=sorted(set(left.inputs.values())),
    )
    return record, [*left.problems, *files.problems]


def _only(guessed: Mapping[str, Any], told: Mapping[str, Any]) -> dict[str, Any]:
    """Give those parameters that nobody but the command line tells."""
    only: dict[str, Any] = {}
    for name, value in guessed.items():
        if isinstance(value, Mapping) and isinstance(told.get(name), Mapping):
            only[name] = _only(value, told[name])
        elif name not in told:
            only[name] = value
    return only
