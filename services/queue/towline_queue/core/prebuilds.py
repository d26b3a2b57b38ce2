"""Which jobs a queue has built as soon as they have a new version."""

import re
import uuid
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Final

from towline import names
from towline.errors import InvalidArgument
from towline.names import JobName, JobVersionName, QueueName
from towline_queue.core.template import Template

__all__ = ["check_prebuild", "request_id", "wants"]

_MOST: Final = 64
# What job names are made of, and what stands for any of it: fnmatch's brackets are in neither.
_PATTERN: Final = re.compile(r"[A-Za-z0-9_.*?-]{1,128}")
_REQUESTS: Final = uuid.UUID("5c1d4c52-0b52-5e0c-9d6e-7a54e2f3b1aa")


def check_prebuild(patterns: Sequence[str], template: Template, field: str) -> None:
    """Check a queue's patterns of job names.

    Args:
        patterns: As the administrator wrote them.
        template: The queue's.
        field: Their path in the request, such as "spec.prebuild".

    Raises:
        InvalidArgument: One has no valid form, they are too many, or nobody would fill in what the template's
            image needs.
    """
    if len(patterns) > _MOST:
        raise InvalidArgument.field(field, f"{len(patterns)} patterns; at most {_MOST} can be kept")
    for index, pattern in enumerate(patterns):
        if not _PATTERN.fullmatch(pattern):
            raise InvalidArgument.field(
                f"{field}[{index}]",
                f"{pattern!r} is no pattern of job names; write a name such as train, "
                "with * for any text and ? for any character",
            )
    if patterns and template.image_needs:
        wanted = ", ".join(sorted(template.image_needs))
        raise InvalidArgument.field(
            field,
            f"the template's image needs a value for {wanted}, which nobody gives before a submission; "
            "declare a default, or leave prebuild out",
        )


def wants(patterns: Iterable[str], job: JobName) -> bool:
    """Tell whether a queue with these patterns has new versions of "jobs/{job}" built."""
    return any(fnmatchcase(names.short(job), pattern) for pattern in patterns)


def request_id(queue: QueueName, version: JobVersionName) -> str:
    """Return the id of the request that builds a version for a queue: the same however often it is asked."""
    return str(uuid.uuid5(_REQUESTS, f"{queue}\n{version}"))
