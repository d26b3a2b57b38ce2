"""After a start: containers on the engine that belong to nobody."""

import logging
from collections.abc import Callable, Iterable

from towline.errors import TowlineError, Unavailable
from towline_agent.attempts import Attempt
from towline_agent.builder import DockerImages
from towline_agent.core.containers import LABEL_EPOCH, LABEL_RUN, Owner
from towline_agent.engine.health import EngineHealth
from towline_agent.engine.port import Engine

__all__ = ["sweep"]

_log = logging.getLogger(__name__)


async def sweep(
    engine: Engine,
    health: EngineHealth,
    images: DockerImages,
    owner: Owner,
    held: Callable[[], Iterable[Attempt]],
) -> None:
    """Remove what an earlier start has left: containers without a journal entry, half-done builds.

    To be called when the queue service has accepted this agent: before that, another process may be
    the one that the containers belong to.

    Args:
        engine: The engine.
        health: Tells when it answers.
        images: Knows its build containers.
        owner: Whose containers they are.
        held: Gives the attempts that the agent has.
    """
    while True:
        await health.wait_ready()
        try:
            found = await engine.containers(owner.labels)
            # Asked for after the containers: an attempt is there before its container is.
            known = {(attempt.spec.run, str(attempt.grant.epoch)) for attempt in held()}
            for container in found:
                if (container.labels.get(LABEL_RUN), container.labels.get(LABEL_EPOCH)) not in known:
                    _log.warning("removing container %s: no lease of ours has it", container.id[:12])
                    await engine.remove(container.id)
            await images.sweep()
        except Unavailable:
            await health.back()
        except TowlineError as error:
            _log.warning("left-over containers stay: %s", error)
            return
        else:
            return
