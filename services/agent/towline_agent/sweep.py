"""After a start: containers on the engine that belong to nobody."""

import logging
from collections.abc import Callable, Iterable

from towline.errors import TowlineError, Unavailable
from towline_agent.attempts import Attempt
from towline_agent.builder import DockerImages
from towline_agent.core.containers import LABEL_AGENT, LABEL_EPOCH, LABEL_INSTANCE, LABEL_RUN, Owner
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
            await _tell_strangers(engine, owner)
        except Unavailable:
            await health.back()
        except TowlineError as error:
            _log.warning("left-over containers stay: %s", error)
            return
        else:
            return


async def _tell_strangers(engine: Engine, owner: Owner) -> None:
    """Name the containers of agents that are called alike but have, or had, another data folder.

    They stay: they may be another installation's, and no queue service can tell, because one that never
    granted a lease and one that has forgotten it answer alike.
    """
    found = await engine.containers({LABEL_AGENT: owner.agent})
    for instance in sorted({container.labels.get(LABEL_INSTANCE, "") for container in found}):
        if instance and instance != owner.instance_id:
            _log.warning(
                "containers of %s made from another data folder stay; if that folder is gone, remove them: "
                "docker rm --force --volumes $(docker ps --all --quiet --filter label=%s=%s)",
                owner.agent,
                LABEL_INSTANCE,
                instance,
            )
