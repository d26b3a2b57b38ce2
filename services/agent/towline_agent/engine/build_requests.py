"""`POST /build` of Docker's API, by which both builders are spoken to."""

import json
from collections.abc import AsyncGenerator, Mapping
from typing import Any, Final

from aiodocker import Docker

from towline_agent import tars
from towline_agent.engine.build_port import BuildOrder
from towline_agent.engine.errors import translated
from towline_agent.engine.wire import CHUNK_BYTES, lines

__all__ = ["request_build"]

_HEADERS: Final = {"Content-Type": "application/x-tar"}


async def request_build(
    client: Docker, order: BuildOrder, more: Mapping[str, str]
) -> AsyncGenerator[Mapping[str, Any], None]:
    """Have an image built, and give the items of the engine's answer; who stops reading breaks it off.

    Args:
        client: The engine.
        order: What is to be built.
        more: Further parameters.
    """
    with translated("image"):
        async with client._query(
            "build",
            "POST",
            params=_parameters(order) | dict(more),
            data=tars.file_chunks(order.context),
            headers=_HEADERS,
            timeout=None,
        ) as response:
            try:
                async for line in lines(response.content.iter_chunked(CHUNK_BYTES)):
                    yield json.loads(line)
            finally:
                response.close()


def _parameters(order: BuildOrder) -> dict[str, str]:
    given = {
        "t": order.tag,
        "dockerfile": order.dockerfile,
        "buildargs": json.dumps(dict(order.build_args)),
        "labels": json.dumps(dict(order.labels)),
        "target": order.target,
        "networkmode": order.network,
        # The containers of steps go, that of one which fails as well.
        "rm": "1",
        "forcerm": "1",
    }
    return {name: value for name, value in given.items() if value}
