"""Four nodes that want the same new image at once, sharing one container registry."""

import asyncio
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc

from bench.images.subject import BASE, FEW_REQUIREMENTS, Subject
from bench.images.towline_side import TowlineSide, opened
from towline.names import AgentName
from towline.v1 import runs_pb2
from towline_agent.engine.docker import connecting
from towline_agent.image_records import ImageRecords
from towline_agent.sharing import SharedImages
from towline_testing.container_registry import container_registry
from towline_testing.engines import engines

__all__ = ["measure_fleet"]


async def measure_fleet(channel: grpc.aio.Channel, nodes: int) -> dict[str, Any]:
    """Ask for one image on each of some engines at once; give `builds`, and `seconds` of each node."""
    subject = Subject.new(FEW_REQUIREMENTS)
    with tempfile.TemporaryDirectory(prefix="towline-bench-") as place, engines(nodes, BASE) as urls:
        folder = Path(place)
        with container_registry(folder / "images") as images:
            async with AsyncExitStack() as stack, asyncio.TaskGroup() as pushes:
                sides: list[TowlineSide] = []
                for number, url in enumerate(urls):
                    engine = await stack.enter_async_context(connecting(url))
                    agent = AgentName(f"agents/node-{number}")
                    records = ImageRecords(channel, "the registry", images.repository(), agent)
                    work = folder / agent.rpartition("/")[2]
                    work.mkdir()
                    shared = SharedImages(engine, records, pushes)
                    sides.append(
                        await stack.enter_async_context(opened(engine, channel, work, shared, "host"))
                    )
                began = time.perf_counter()
                async with asyncio.TaskGroup() as group:
                    asked = [group.create_task(side.build(subject)) for side in sides]
                got = [task.result() for task in asked]
                return {
                    "builds": sum(outcome == runs_pb2.IMAGE_OUTCOME_BUILT for _, outcome in got),
                    "manifests": len(images.manifests()),
                    "seconds": sorted(seconds for seconds, _ in got),
                    "all_seconds": time.perf_counter() - began,
                }
