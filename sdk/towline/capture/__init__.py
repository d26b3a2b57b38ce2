"""Recording of a run: source, environment, entrypoint.

    with capture_command(["python", "train.py", "--lr", "0.1"], cwd=Path.cwd()) as captured:
        response = await create_job(client, captured)      # uploads the snapshot, adds the version

`captured.job` is the name the job gets unless another is given, `captured.spec(digest)` its content, and
`captured.warnings` are lines for people. `towline.runtime` records a running program the same way, through
`towline.capture.recorder`.
"""

from towline.capture.record import Captured, capture_command, create_job

__all__ = ["Captured", "capture_command", "create_job"]
