"""What a supervisor that was killed has left running, and how `towline down` ends things."""

import asyncio
from datetime import timedelta
from signal import SIGKILL, SIGTERM
from typing import Final

from towline.embedded import postgres, services
from towline.embedded.going_on import going_on
from towline.embedded.layout import Layout
from towline.embedded.processes import end as end_process
from towline.embedded.processes import until
from towline.embedded.program import Event, Report
from towline.embedded.state import StateFile, owning
from towline.errors import Unavailable

__all__ = ["down", "end_leftovers"]

_ORDER: Final = (*reversed(services.SERVICES), "postgres")
# The sum of all grace periods, and a little.
_SUPERVISOR_LIMIT: Final = timedelta(seconds=75)


async def end_leftovers(layout: Layout, state: StateFile, report: Report, hurry: asyncio.Event) -> bool:
    """End processes of a supervisor that is gone, in order; the caller owns the folder.

    Returns:
        Whether there were any.
    """
    left = state.now.leftovers()
    for name in _ORDER:
        if process := left.get(name):
            report(Event(name, "stopping", f"pid {process.pid}, left by a towline that was killed"))
            ending = postgres.ENDING if name == "postgres" else services.ENDING
            orderly = await end_process(process, ending, hurry)
            report(Event(name, "stopped", "" if orderly else "it had to be killed"))
        state.ended(name)
    layout.endpoints.unlink(missing_ok=True)
    return bool(left)


async def down(layout: Layout, report: Report) -> bool:
    """End whatever runs on a data folder, with or without a living supervisor.

    Returns:
        Whether anything ran.

    Raises:
        Unavailable: The supervisor would not end; reason SUPERVISOR_STUCK.
    """
    if not layout.lock.exists():
        return False
    ran = await _end_supervisor(layout, report)
    with owning(layout) as mine:
        if not mine:  # somebody has started it again meanwhile: that one is not ours to end
            return True
        state = StateFile(layout.state)
        left = await end_leftovers(layout, state, report, asyncio.Event())
        state.supervised_by(None)
    if (ran or left) and (event := going_on(layout)):
        report(event)
    return ran or left


async def _end_supervisor(layout: Layout, report: Report) -> bool:
    with owning(layout) as mine:
        if mine:
            return False
    # It takes the lock first and writes its name down a moment later.
    await until(lambda: StateFile(layout.state).now.supervisor is not None, timedelta(seconds=5))
    supervisor = StateFile(layout.state).now.supervisor
    if supervisor is None:
        raise Unavailable(
            f"{layout.lock} is locked by a process that {layout.state} does not name; end that one by hand",
            reason="SUPERVISOR_STUCK",
        )
    report(Event("supervisor", "stopping", f"pid {supervisor.pid}"))
    supervisor.send(SIGTERM)
    orderly = await until(lambda: not supervisor.alive(), _SUPERVISOR_LIMIT)
    if not orderly:
        supervisor.send(SIGKILL)
        await until(lambda: not supervisor.alive(), timedelta(seconds=5))
    report(Event("supervisor", "stopped", "" if orderly else "it had to be killed"))
    return True
