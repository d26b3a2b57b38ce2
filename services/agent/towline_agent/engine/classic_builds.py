"""The classic builder of Docker's engine, which every engine has; it is what BuildKit replaces."""

import asyncio
import logging
import re
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing, suppress
from typing import Any, Final

from aiodocker import Docker

from towline.errors import AlreadyExists, NotFound, TowlineError
from towline_agent.engine.build_port import BuildEvent, BuildOrder, Output, Refused, StepBegan, StepEnded
from towline_agent.engine.build_requests import request_build
from towline_agent.engine.errors import translated
from towline_agent.stopping import to_the_end

__all__ = ["ClassicBuilds", "ClassicOutput"]

_log = logging.getLogger(__name__)
_CLEAN_UP_S: Final = 30.0
_STEP: Final = re.compile(r"Step (\d+)/(\d+) : (.*)", re.DOTALL)
_CACHED: Final = re.compile(r" ---> Using cache\s*")
_IMAGE: Final = re.compile(r" ---> ([0-9a-f]{12,64})\s*")
_BUILT: Final = re.compile(r"Successfully built ([0-9a-f]{12,64})\s*")


class ClassicBuilds:
    """The BuildEngine port on `POST /build` of Docker's API.

    Args:
        client: The engine.
    """

    name = "the classic builder"

    def __init__(self, client: Docker) -> None:
        self._client = client

    async def build(self, order: BuildOrder) -> AsyncGenerator[BuildEvent, None]:
        """See BuildEngine; what the builder leaves without a name is removed."""
        output = ClassicOutput()
        try:
            async with aclosing(request_build(self._client, order, {})) as items:
                async for item in items:
                    for event in output.feed(item):
                        yield event
        finally:
            # Also after a cancel, which came to the build and not to this.
            await to_the_end(self._remove(output.images))

    async def _remove(self, images: Sequence[str]) -> None:
        """Remove what steps have made, the newest first; those that an image with a name lies on stay."""
        try:
            async with asyncio.timeout(_CLEAN_UP_S):
                for image in reversed(images):
                    with suppress(AlreadyExists, NotFound), translated("image"):
                        await self._client.images.delete(image)
        except (TowlineError, TimeoutError) as error:
            _log.warning("images of a build's steps stay: %s", error)


class ClassicOutput:
    """Reads what the classic builder tells."""

    def __init__(self) -> None:
        self.images: list[str] = []
        """Ids of the images that steps have made, in their order, without the one that was asked for."""
        self._step = ""
        self._cached = False

    def feed(self, item: Mapping[str, Any]) -> Iterator[BuildEvent]:
        """Take one item of the engine's answer."""
        if "error" in item:
            yield Refused(self._step, item["error"].strip())
            return
        text = item.get("stream", "")
        if found := _STEP.fullmatch(text.rstrip("\n")):
            yield from self._ended()
            number, count, line = found.groups()
            self._step, self._cached = f"[{number}/{count}] {line}", False
            yield StepBegan(self._step)
        elif _CACHED.fullmatch(text):
            self._cached = True
        elif found := _IMAGE.fullmatch(text):
            if not self._cached and not self._starts_a_stage():
                self.images.append(found[1])
        elif found := _BUILT.fullmatch(text):
            yield from self._ended()
            self.images = [image for image in self.images if image != found[1]]
        elif text.strip() and not text.startswith((" ---> ", "Removing intermediate container ")):
            yield Output(text.encode())

    def _starts_a_stage(self) -> bool:
        """Tell whether the step's image is the base, which the build has not made; its line is as written."""
        return self._step.partition("] ")[2].upper().split()[:1] == ["FROM"]

    def _ended(self) -> Iterator[BuildEvent]:
        if self._step:
            yield StepEnded(self._step, self._cached)
        self._step = ""
