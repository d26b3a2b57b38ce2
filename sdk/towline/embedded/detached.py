"""Starting the supervisor as a process of its own, and waiting until all is up."""

import json
import os
import subprocess
import sys
from pathlib import Path

from towline import errors
from towline.embedded.layout import Layout
from towline.embedded.program import Event, Report
from towline.embedded.summary import Summary

__all__ = ["start"]


def start(layout: Layout, report: Report) -> Summary:
    """Start everything in the background; returns once it is up.

    Raises:
        TowlineError: What `supervise` raises, or Unavailable where the supervisor ended without a word.
    """
    layout.make()
    log = layout.log("supervisor")
    read_end, write_end = os.pipe()
    with log.open("ab") as output, os.fdopen(read_end) as messages:
        supervisor = subprocess.Popen(
            [sys.executable, "-P", "-m", "towline.embedded", str(layout.root), str(write_end)],
            pass_fds=[write_end],
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        os.close(write_end)
        try:
            for line in messages:
                match json.loads(line):
                    case {"event": event}:
                        report(Event(**event))
                    case {"summary": summary}:
                        return Summary(**(summary | {"data_dir": Path(summary["data_dir"])}))
                    case {"error": error}:
                        raise getattr(errors, error.pop("kind"))(error.pop("message"), **error)
        except KeyboardInterrupt:
            supervisor.terminate()
            supervisor.wait()
            raise
    raise errors.Unavailable(
        f"the supervisor ended with exit code {supervisor.wait()} and no word; see {log}",
        reason="SUPERVISOR_FAILED",
    )
