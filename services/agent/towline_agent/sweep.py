"""After a start: containers on the engine that belong to nobody."""

import logging
from collections.abc import Iterable

from towline.errors import TowlineError, Unavailable
from towline_agent.attempts import Attempt
from towline_agent.builder import DockerImages
from towline_agent.core.containers import LABEL_AGENT, container_name
from towline_agent.engine.health import EngineHealth
from towline_agent.engine.port import Engine

__all__ = ["sweep"]

_log = logging.getLogger(__name__)


async def sweep(
    engine: Engine, health: EngineHealth, images: DockerImages, agent: str, held: Iterable[Attempt]
) -> None:
    """Remove what an earlier start has left: containers without a journal entry, half-done builds.

    To be called when the queue service has accepted this agent: before that, another process may be
    the one that the containers belong to.

    Args:
        engine: The engine.
        health: Tells when it answers.
        images: Knows its build containers.
        agent: "agents/{agent}", as the containers are labelled.
        held: Attempts that the agent has.
    """
    known = {container_name(attempt.spec.run, attempt.grant.epoch) for attempt in held}
    ids = set()
    while True:
        await health.wait_ready()
        try:
            for name in known:
                if found := await engine.inspect(name):
                    ids.add(found.id)
            for container in await engine.containers({LABEL_AGENT: agent}):
                if container.id not in ids:
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
