"""Nothing on the engine that is ours is without an owner: what crashes leave is removed."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from random import uniform
from typing import Final, NoReturn, Protocol

from towline.errors import TowlineError, Unavailable
from towline.v1 import leases_pb2
from towline_agent.builder import DockerImages
from towline_agent.core.ownership import (
    LABEL_AGENT,
    LABEL_EPOCH,
    LABEL_INSTANCE,
    LABEL_RUN,
    LABEL_SPARE,
    Owner,
    attempt_key,
)
from towline_agent.core.recipe import LABEL_BUILDER
from towline_agent.engine.health import EngineHealth
from towline_agent.engine.port import Engine

__all__ = ["Held", "orphans", "sweep"]

_log = logging.getLogger(__name__)
_EVERY_S: Final = 60.0


class Held(Protocol):
    """An attempt that the agent has."""

    @property
    def grant(self) -> leases_pb2.Grant:
        """Return the grant that it came with."""
        ...


async def sweep(
    engine: Engine,
    health: EngineHealth,
    images: DockerImages,
    owner: Owner,
    held: Callable[[], Iterable[Held]],
) -> NoReturn:
    """Remove what has no owner now and every minute: containers, their volumes, half-done builds.

    To be called when the queue service has accepted this agent: before that, another process may be
    the one that the containers belong to. Runs until cancelled.

    Args:
        engine: The engine.
        health: Tells when it answers.
        images: Knows its build containers.
        owner: Whose containers they are.
        held: Gives the attempts that the agent has; one is among them before its container is made.
    """
    strangers: set[str] = set()
    while True:
        await health.wait_ready()
        try:
            await _remove_ownerless(
                engine, owner, lambda: {attempt_key(one.grant.spec.run, one.grant.epoch) for one in held()}
            )
            await images.sweep()
            strangers |= await _tell_strangers(engine, owner, strangers)
        except Unavailable:
            await health.back()
            continue
        except TowlineError as error:
            _log.warning("what has no owner stays for now: %s", error)
        await asyncio.sleep(uniform(_EVERY_S * 0.8, _EVERY_S * 1.2))  # noqa: S311 - jitter


async def orphans(engine: Engine, owner: Owner, held: Iterable[str]) -> list[str]:
    """Return what of an owner is on the engine and belongs to no attempt; empty is how it should be.

    To be asked while nothing is built: what a build uses is nobody's attempt.

    Args:
        engine: The engine.
        owner: Whose things are looked at.
        held: Its attempts, as the journal's folders are named.

    Returns:
        A line such as "container 0123456789ab of 42-1" for each.
    """
    known = set(held)
    found = [
        f"container {container.id[:12]} of {_attempt_of(container.labels)}"
        for container in await engine.containers(_ours(owner))
        if _is_ownerless(container.labels, known)
    ]
    found += [
        f"volume {volume.name[:12]} of {_attempt_of(volume.labels)}"
        for volume in await engine.volumes(_ours(owner))
        if _is_ownerless(volume.labels, known)
    ]
    spares = await engine.volumes(_ours(owner) | {LABEL_SPARE: ""}, unused=True)
    found += [f"volume {volume.name}" for volume in spares[1:]]  # one is for the next run
    for container in await engine.containers({LABEL_BUILDER: ""}):
        if container.labels[LABEL_BUILDER].startswith(f"{owner.instance_id}:"):
            found.append(f"build container {container.id[:12]}")
    for volume in await engine.volumes({LABEL_BUILDER: ""}):
        if volume.labels[LABEL_BUILDER].startswith(f"{owner.instance_id}:"):
            found.append(f"build volume {volume.name[:12]}")
    return found


async def _remove_ownerless(engine: Engine, owner: Owner, held: Callable[[], set[str]]) -> None:
    containers = await engine.containers(_ours(owner))
    volumes = await engine.volumes(_ours(owner))
    # Asked for after them: an attempt is there before its container and its volume are.
    known = held()
    for container in containers:
        if _is_ownerless(container.labels, known):
            _log.warning("removing container %s: no lease of ours has it", container.id[:12])
            await engine.remove(container.id)
    for volume in volumes:
        # One that a container still uses goes with that, or with the next sweep.
        if _is_ownerless(volume.labels, known) and await engine.remove_volume(volume.name):
            _log.info("volume %s is gone: no lease of ours has it", volume.name[:12])


async def _tell_strangers(engine: Engine, owner: Owner, told: set[str]) -> set[str]:
    """Name the containers of agents that are called alike but have, or had, another data folder; once each.

    They stay: they may be another installation's, and no queue service can tell, because one that never
    granted a lease and one that has forgotten it answer alike.
    """
    found = await engine.containers({LABEL_AGENT: owner.agent})
    others = {container.labels.get(LABEL_INSTANCE, "") for container in found} - {"", owner.instance_id}
    for instance in sorted(others - told):
        _log.warning(
            "containers of %s made from another data folder stay; if that folder is gone, remove them: "
            "docker rm --force --volumes $(docker ps --all --quiet --filter label=%s=%s)",
            owner.agent,
            LABEL_INSTANCE,
            instance,
        )
    return others


def _ours(owner: Owner) -> dict[str, str]:
    # Not by the agent's name: an agent that was renamed still has the containers from before.
    return {LABEL_INSTANCE: owner.instance_id}


def _is_ownerless(labels: Mapping[str, str], known: set[str]) -> bool:
    # Which spares are still needed is for Spares to know.
    return LABEL_SPARE not in labels and _attempt_of(labels) not in known


def _attempt_of(labels: Mapping[str, str]) -> str:
    return f"{labels.get(LABEL_RUN, '').removeprefix('runs/')}-{labels.get(LABEL_EPOCH, '')}"
