"""Which containers of runs go on when the agent of a data folder has ended, and for how long."""

import json
import time
from math import floor

from towline.embedded.layout import Layout
from towline.embedded.processes import boot_id
from towline.embedded.program import Event

__all__ = ["going_on"]


def going_on(layout: Layout) -> Event | None:
    """Say how many runs go on without an agent, and until when one can take them up; None: none is known to.

    It is read from the deadlines that the agent has left to its watchdog.
    """
    try:
        kept = json.loads((layout.agent / "deadlines.json").read_bytes())
        leases = kept["leases"] if kept["boot_id"] == boot_id() else []
        ends = [float(lease["stop_at"]) for lease in leases if lease.get("container_id")]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # the file is another program's
        return None
    now = time.clock_gettime(time.CLOCK_BOOTTIME)
    left = [end - now for end in ends if end > now]
    if not left:
        return None
    one = len(left) == 1
    runs, them, they_are = (
        ("1 run goes on", "it", "it is") if one else (f"{len(left)} runs go on", "them", "they are")
    )
    fate = f"`towline up` within {_span(min(left))} takes {them} up, else {they_are} stopped"
    return Event("runs", "left", f"{runs}; {fate}")


def _span(seconds: float) -> str:
    """Write a span as people type it, rounded down: "85s", "12m", "9h"."""
    unit, size = ("s", 1) if seconds < 120 else ("m", 60) if seconds < 7200 else ("h", 3600)
    return f"{floor(seconds / size)}{unit}"
