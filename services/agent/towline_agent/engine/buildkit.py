"""BuildKit as Docker's engine has it: spoken to through the engine's API, without any client of Docker's."""

import base64
import re
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing
from typing import Any, Final

from aiodocker import Docker

from towline_agent.engine.build_port import BuildEvent, BuildOrder, Output, Refused, StepBegan, StepEnded
from towline_agent.engine.build_requests import request_build
from towline_agent.engine.buildkit_pb2 import Status, Vertex
from towline_agent.engine.buildkit_session import build_session

__all__ = ["BuildKit", "BuildKitOutput"]

_TRACE: Final = "moby.buildkit.trace"
# What comes of steps of a Dockerfile; the others are BuildKit's own, such as loading the context.
_STEP: Final = re.compile(r"\[(?!internal\])")
_BROKEN_OFF: Final = re.compile(r"context cancell?ed|operation was cancell?ed", re.IGNORECASE)


class BuildKit:
    """The BuildEngine port on BuildKit.

    Args:
        client: The engine it is in.
    """

    name = "BuildKit"

    def __init__(self, client: Docker) -> None:
        self._client = client

    async def build(self, order: BuildOrder) -> AsyncGenerator[BuildEvent, None]:
        """See BuildEngine."""
        output = BuildKitOutput()
        async with build_session(self._client, order.secrets) as session:
            more = {"version": "2", "session": session}
            async with aclosing(request_build(self._client, order, more)) as items:
                async for item in items:
                    for event in output.feed(item):
                        yield event


class BuildKitOutput:
    """Reads what BuildKit tells."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}
        """Of the steps that have begun, by digest."""
        self._ended: set[str] = set()
        self._talks = ""
        """Digest of the step that has begun or printed last."""
        self._failed = ""

    def feed(self, item: Mapping[str, Any]) -> Iterator[BuildEvent]:
        """Take one item of the engine's answer."""
        if "error" in item:
            yield Refused(self._failed, item["error"].strip())
        elif item.get("id") == _TRACE:
            status = Status.FromString(base64.b64decode(item["aux"]))
            for vertex in status.vertexes:
                yield from self._vertex(vertex)
            for log in status.logs:
                # Steps that go on at once print in turn.
                if log.vertex != self._talks and log.vertex in self._names:
                    self._talks = log.vertex
                    yield Output(f"{self._names[log.vertex]}:\n".encode())
                yield Output(log.msg)

    def _vertex(self, vertex: Vertex) -> Iterator[BuildEvent]:
        if not _STEP.match(vertex.name) or vertex.digest in self._ended:
            return
        if vertex.error and not _BROKEN_OFF.search(vertex.error):
            self._failed = self._failed or vertex.name
        if vertex.HasField("started") and vertex.digest not in self._names:
            self._names[vertex.digest], self._talks = vertex.name, vertex.digest
            yield StepBegan(vertex.name)
        if vertex.HasField("completed") and not vertex.error:
            self._ended.add(vertex.digest)
            took = vertex.completed.ToDatetime() - vertex.started.ToDatetime()
            yield StepEnded(vertex.name, vertex.cached, took.total_seconds())
