"""JSON objects as requests carry them: strict reading, one canonical form."""

import json
from typing import Any, Final

from towline.errors import InvalidArgument
from towline.requests import json_values

__all__ = ["MAX_BYTES", "JsonObject", "canonical", "read"]

JsonObject = dict[str, Any]

MAX_BYTES: Final = 1024 * 1024


def read(text: str, field: str) -> JsonObject:
    """Read the text of a JSON object.

    Raises:
        InvalidArgument: It is larger than 1 MiB, no object, or not as `json_values.parse` takes it; names
            `field`.
    """
    if len(text.encode()) > MAX_BYTES:
        raise InvalidArgument.field(field, f"is larger than {MAX_BYTES} bytes")
    try:
        value = json_values.parse(text)
    except ValueError as error:
        raise InvalidArgument.field(field, str(error)) from None
    if not isinstance(value, dict):
        raise InvalidArgument.field(field, 'is no JSON object, such as {"epochs": 3}')
    return value


def canonical(value: JsonObject) -> str:
    """Write a value so that equal values are equal texts: keys sorted, no white space."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
