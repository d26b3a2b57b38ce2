"""A queue's spec as a file that people edit: YAML or JSON with the field names of the protos."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from towline import names
from towline.cli import yaml_files
from towline.errors import InvalidArgument
from towline.v1 import queues_pb2

__all__ = ["read", "written"]


def read(path: Path) -> queues_pb2.QueueSpec:
    """Read a spec.

    Raises:
        InvalidArgument: The file cannot be read, or is no queue's spec; the message says where.
    """
    value = yaml_files.read_object(path, "--file")
    try:
        return json_format.ParseDict(
            _as_proto(value, queues_pb2.QueueSpec.DESCRIPTOR), queues_pb2.QueueSpec()
        )
    except json_format.ParseError as error:
        raise InvalidArgument.field(
            f"--file {path}", f"is no queue: {error} (`towline queue show` prints one to start from)"
        ) from None


def _as_proto(value: Any, message: Descriptor) -> Any:
    """Write as text what people rightly write as numbers or objects: `cpus: 4`, `schema_json: {type: integer}`."""
    if not isinstance(value, dict):
        return value
    fields = {name: message.fields_by_name.get(name) for name in value}
    return {name: _field(item, fields[name]) for name, item in value.items()}


def _field(value: Any, field: FieldDescriptor | None) -> Any:
    if field is None:
        return value
    if isinstance(value, list):
        return [_field(item, field) for item in value]
    inner = field.message_type
    if inner is not None and inner.GetOptions().map_entry:
        entry = inner.fields_by_name["value"]
        return {key: _field(item, entry) for key, item in value.items()} if isinstance(value, dict) else value
    if inner is not None:
        return _as_proto(value, inner)
    text_wanted = field.cpp_type == FieldDescriptor.CPPTYPE_STRING
    return json.dumps(value) if text_wanted and value is not None and not isinstance(value, str) else value


def written(queue: queues_pb2.Queue) -> str:
    """Write a queue's spec as YAML that `read` takes; the rest of the queue stands in comments."""
    short = names.short(queue.name)
    facts: Mapping[str, object] = {
        "paused": "yes" if queue.paused else "no",
        "waiting": queue.counts.waiting,
        "active": queue.counts.active,
        "etag": queue.etag,
    }
    head = [f"# queue {short}: " + ", ".join(f"{name} {value}" for name, value in facts.items())]
    head.append(f"# to change it, edit this and: towline queue update {short} --file FILE")
    spec = json_format.MessageToDict(queue.spec, preserving_proto_field_name=True)
    return "\n".join(head) + "\n" + (yaml_files.dump(spec) if spec else "{}\n")
