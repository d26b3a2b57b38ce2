"""Runs one side: usage: python -m bench.queue.side MODULE ARGUMENT…; steps come on standard input.

The module's `opened(*arguments)` gives the side, ready, for as long as standard input is open.
"""

import asyncio
import json
import os
import sys
from contextlib import AbstractAsyncContextManager
from importlib import import_module
from importlib.util import find_spec
from typing import Any


async def serve(opened: AbstractAsyncContextManager[Any]) -> None:
    """Carry out the steps that come until the input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async with opened as side:
        while line := await reader.readline():
            step = json.loads(line)
            answer = await getattr(side, step.pop("step"))(**step)
            print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    name, *arguments = sys.argv[1:]
    # The peers are faster with uvloop, which is in their environment; gRPC is not.
    run = import_module("uvloop").run if find_spec("uvloop") else asyncio.run
    run(serve(import_module(f"bench.queue.{name}").opened(*arguments)))
