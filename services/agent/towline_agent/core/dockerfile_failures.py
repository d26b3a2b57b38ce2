"""Why a build with a Dockerfile has failed, in words and in the one failure taxonomy."""

import re
from typing import Final

from towline.v1 import leases_pb2, runs_pb2
from towline_agent.core.failures import failed

__all__ = ["dockerfile_failure"]

# As both builders tell of a command that has failed: "… returned a non-zero code: 2", "… exit code: 2".
_EXIT: Final = re.compile(r"(?:exit code|non-zero code): (?P<code>\d+)\s*$")
_MOST_WHY: Final = 500


def dockerfile_failure(path: str, step: str, why: str, log_tail: str) -> leases_pb2.AttemptResult:
    """Make the result of an attempt whose image cannot be built.

    Args:
        path: Of the Dockerfile.
        step: Which step has failed, such as "[2/4] RUN make"; empty: none.
        why: In the engine's words.
        log_tail: Last lines of the build's log; empty: they are not told.
    """
    ended = _EXIT.search(why)
    problem = f"exit code {ended['code']}" if ended else why[:_MOST_WHY].strip().rstrip(".")
    what = f"step `{step}` of {path} failed" if step else f"{path} cannot be built"
    return failed(
        runs_pb2.FAILURE_CAUSE_IMAGE_BUILD,
        f"The image could not be built: {what}: {problem}. The build log says more; correct {path} "
        "and record the job again.",
        log_tail,
    )
