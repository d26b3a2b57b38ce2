"""A queue's spec as a file that people edit: YAML or JSON with the field names of the protos.

Durations and enums are as people write them, "2h" and "oom"; as proto JSON has them ("7200s",
"FAILURE_CAUSE_OOM") they are read too.
"""

import json
from pathlib import Path
from typing import Any, Final

from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.duration_pb2 import Duration

from towline import durations, names
from towline.cli import yaml_files
from towline.client.policies import CAUSES
from towline.errors import InvalidArgument
from towline.v1 import queues_pb2, runs_pb2

__all__ = ["read", "written"]

_DURATION: Final = Duration.DESCRIPTOR.full_name


def read(path: Path) -> queues_pb2.QueueSpec:
    """Read a spec.

    Raises:
        InvalidArgument: The file cannot be read, or is no queue's spec; the message says where.
    """
    value = yaml_files.read_object(path, "--file")
    try:
        return json_format.ParseDict(
            _object(value, queues_pb2.QueueSpec.DESCRIPTOR, ""), queues_pb2.QueueSpec()
        )
    except InvalidArgument as error:  # a duration
        raise InvalidArgument.field(f"--file {path}", error.message) from None
    except (json_format.ParseError, ValueError) as error:
        raise InvalidArgument.field(
            f"--file {path}", f"is no queue: {error} (`towline queue show` prints one to start from)"
        ) from None


# Text is what most fields take, and people rightly write `cpus: 4` and `schema_json: {type: integer}`:
# what is no text becomes its JSON, and proto JSON checks the rest.


def _object(value: Any, message: Descriptor, path: str) -> Any:
    if not isinstance(value, dict):
        raise ValueError(f"{path} must be an object (key: value)")
    return {
        name: _field(item, message.fields_by_name.get(name), f"{path}.{name}".lstrip("."))
        for name, item in value.items()
    }


def _field(value: Any, field: FieldDescriptor | None, path: str) -> Any:
    if field is None or value is None:  # proto JSON says what is wrong with the one, and takes the other
        return value
    inner = field.message_type
    if inner is not None and inner.GetOptions().map_entry:
        if not isinstance(value, dict):
            raise ValueError(f"{path} must be an object (name: value)")
        return {
            key: _single(item, inner.fields_by_name["value"], f"{path}.{key}") for key, item in value.items()
        }
    if field.is_repeated:
        if not isinstance(value, list):
            raise ValueError(f"{path} must be a list")
        return [_single(item, field, f"{path}[{index}]") for index, item in enumerate(value)]
    return _single(value, field, path)


def _single(value: Any, field: FieldDescriptor, path: str) -> Any:
    if field.message_type is not None:
        if field.message_type.full_name == _DURATION:
            span = durations.parse(value if isinstance(value, str) else json.dumps(value), path)
            return f"{span.total_seconds():.6f}s"
        own = field.message_type.file.package == "towline.v1"
        return _object(value, field.message_type, path) if own else value
    if field.enum_type is not None and isinstance(value, str):
        return _enum_value(value, field.enum_type, path)
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING and not isinstance(value, str):
        return json.dumps(value)
    return value


def _enum_value(word: str, kind: EnumDescriptor, path: str) -> str:
    values = {_word(name, kind): name for name in list(kind.values_by_name)[1:]}
    if word in kind.values_by_name:
        return word
    if word.lower() not in values:
        # A cause stands here for what may be tried again: a run that was cancelled is not.
        offered = CAUSES if kind is runs_pb2.FailureCause.DESCRIPTOR else values
        raise ValueError(f"{path}: {word!r} is none of {', '.join(offered)}")
    return values[word.lower()]


def _word(name: str, kind: EnumDescriptor) -> str:
    prefix = kind.values_by_number[0].name.removesuffix("UNSPECIFIED")
    return name.removeprefix(prefix).lower()


def written(queue: queues_pb2.Queue) -> str:
    """Write a queue's spec as YAML that `read` takes; the rest of the queue stands in comments."""
    short = names.short(queue.name)
    facts = {
        "paused": "yes" if queue.paused else "no",
        "waiting": queue.counts.waiting,
        "active": queue.counts.active,
        "etag": queue.etag,
    }
    head = [f"# queue {short}: " + ", ".join(f"{name} {value}" for name, value in facts.items())]
    head.append(f"# to change it, edit this and: towline queue update {short} --file FILE")
    spec = json_format.MessageToDict(queue.spec, preserving_proto_field_name=True)
    readable = _readable(spec, queues_pb2.QueueSpec.DESCRIPTOR)
    return "\n".join(head) + "\n" + (yaml_files.dump(readable) if readable else "{}\n")


def _readable(value: dict[str, Any], message: Descriptor) -> dict[str, Any]:
    return {name: _readable_field(item, message.fields_by_name[name]) for name, item in value.items()}


def _readable_field(value: Any, field: FieldDescriptor) -> Any:
    if isinstance(value, list):
        return [_readable_field(item, field) for item in value]
    inner = field.message_type
    if inner is not None and inner.full_name == _DURATION:
        duration = Duration()
        duration.FromJsonString(value)
        return durations.written(duration.ToTimedelta())
    if inner is not None and inner.file.package == "towline.v1" and not inner.GetOptions().map_entry:
        return _readable(value, inner)
    return _word(value, field.enum_type) if field.enum_type is not None else value
