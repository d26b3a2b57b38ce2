"""Moments on the wire."""

from datetime import datetime

from google.protobuf.timestamp_pb2 import Timestamp

__all__ = ["timestamp"]


def timestamp(moment: datetime) -> Timestamp:
    """Write a moment, which carries its time zone, as protobuf does."""
    made = Timestamp()
    made.FromDatetime(moment)
    return made
