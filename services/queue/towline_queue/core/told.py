"""What a program told of its results: its summary, and the artifacts that it logged."""

from typing import Final, NamedTuple

from towline import names
from towline.errors import InvalidArgument
from towline.requests.json_values import parse
from towline.v1 import leases_pb2

__all__ = ["Told", "read_told"]

_MOST_SUMMARY_BYTES: Final = 64 * 1024
_MOST_ARTIFACTS: Final = 64


class Told(NamedTuple):
    """What is kept of it.

    Attributes:
        results: An AttemptResult with `summary_json` and `logged_artifacts` only, serialized; None: neither.
        note: What was left out and why, for people; empty: nothing.
    """

    results: bytes | None
    note: str


def read_told(result: leases_pb2.AttemptResult) -> Told:
    """Take what is well formed; the rest is left out, for no result is refused because of it."""
    kept, notes = leases_pb2.AttemptResult(), []
    if problem := _summary_problem(result.summary_json):
        notes.append(f"Its summary is left out: it {problem}.")
    else:
        kept.summary_json = result.summary_json
    well_formed = [name for name in result.logged_artifacts if _is_version(name)]
    kept.logged_artifacts.extend(well_formed[:_MOST_ARTIFACTS])
    if left_out := len(result.logged_artifacts) - len(kept.logged_artifacts):
        notes.append(f"{left_out} of its logged artifacts are left out.")
    return Told(kept.SerializeToString(deterministic=True) or None, " ".join(notes))


def _summary_problem(text: str) -> str:
    if not text:
        return ""
    if len(text.encode()) > _MOST_SUMMARY_BYTES:
        return f"is larger than {_MOST_SUMMARY_BYTES} bytes"
    try:
        value = parse(text)
    except ValueError as error:
        return str(error)
    return "" if isinstance(value, dict) else "is no JSON object"


def _is_version(name: str) -> bool:
    try:
        names.artifact_version(name)
    except InvalidArgument:
        return False
    return True
