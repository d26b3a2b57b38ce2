"""Time spans that people set, read within bounds."""

from datetime import timedelta
from typing import Final

from google.protobuf.duration_pb2 import Duration

from towline.errors import InvalidArgument

__all__ = ["LONGEST", "read_duration"]

LONGEST: Final = timedelta(days=365)


def read_duration(message: Duration, field: str, longest: timedelta = LONGEST) -> timedelta:
    """Return a time span of 0 to `longest`.

    Raises:
        InvalidArgument: It is negative or longer; it names the field.
    """
    # Compared as a number first: what no timedelta holds must not raise another error.
    if message.seconds < 0 or message.nanos < 0:
        raise InvalidArgument.field(field, "must not be negative")
    if message.seconds > longest.total_seconds():
        raise InvalidArgument.field(field, f"is over {longest.days} days; give less")
    span: timedelta = message.ToTimedelta()
    return span
