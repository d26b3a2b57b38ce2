"""Pulls of images, with how far they are and what they took."""

import re
from typing import Final

from towline_agent.core.transfers import Transfer
from towline_agent.engine.port import Engine
from towline_agent.telling import Tell

__all__ = ["pulled"]

_LONG_DIGEST: Final = re.compile(r"(@sha256:[0-9a-f]{12})[0-9a-f]+")


async def pulled(engine: Engine, reference: str, tell: Tell, *, builder: str = "") -> None:
    """Pull an image.

    Args:
        engine: Where to.
        reference: Its name.
        tell: Told how far it is; counts it as a step.
        builder: Who of the fleet built it, "agents/{agent}"; empty: it is none of the fleet's.

    Raises:
        NotFound: See Engine.pull.
    """
    name = _LONG_DIGEST.sub(r"\1", reference)
    with tell.step(f"pull {name}") as step:
        step.builder = builder

        def moved(how_far: Transfer) -> None:
            step.pieces, step.cached = how_far.layers, how_far.cached
            step.transferred = how_far.moved_bytes
            tell.often(f"pulling {name}: {how_far}")

        await engine.pull(reference, moved)
