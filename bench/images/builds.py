"""The same builds by both sides, in turn."""

import statistics
import tempfile
from pathlib import Path
from typing import Final

import grpc

from bench.images.buildkit_side import BuildKitSide
from bench.images.docker_side import DockerSide
from bench.images.subject import Subject
from bench.images.towline_side import opened
from towline.v1 import runs_pb2
from towline_agent.engine.docker import DockerEngine

__all__ = ["STEPS", "measure_builds"]

STEPS: Final = ("cold", "one dependency changed", "code changed", "unchanged")
_UNCHANGED_TIMES: Final = 20


async def measure_builds(
    engine: DockerEngine, channel: grpc.aio.Channel, rounds: int
) -> dict[str, dict[str, list[float]]]:
    """Build; give seconds by side ("towline", "docker build", "BuildKit") and step, one for each round.

    Where the engine has no BuildKit, there is no such side.
    """
    buildkit = await engine.has_buildkit()
    sides = ("towline", "docker build", *(("BuildKit",) if buildkit else ()))
    found: dict[str, dict[str, list[float]]] = {side: {step: [] for step in STEPS} for side in sides}
    for number in range(rounds):
        # Who goes first changes, for the engine's disk is warm for the second.
        turns = [_towline(engine, channel), _docker(), *([_buildkit(engine)] if buildkit else [])]
        for turn in turns if number % 2 == 0 else reversed(turns):
            side, seconds = await turn
            for step, taken in seconds.items():
                found[side][step].append(taken)
    return found


async def _towline(engine: DockerEngine, channel: grpc.aio.Channel) -> tuple[str, dict[str, float]]:
    built, reused = runs_pb2.IMAGE_OUTCOME_BUILT, runs_pb2.IMAGE_OUTCOME_REUSED
    subject = Subject.new()
    with tempfile.TemporaryDirectory(prefix="towline-bench-") as folder:
        async with opened(engine, channel, Path(folder)) as side:

            async def timed(one: Subject, expected: runs_pb2.ImageOutcome.ValueType) -> float:
                seconds, outcome = await side.build(one)
                if outcome != expected:
                    raise RuntimeError("an image was there that should not be, or the other way round")
                return seconds

            return "towline", {
                "cold": await timed(subject, built),
                "one dependency changed": await timed(subject.with_other_dependency(), built),
                "code changed": await timed(subject.with_other_code(), built),
                "unchanged": statistics.median(
                    [await timed(subject, reused) for _ in range(_UNCHANGED_TIMES)]
                ),
            }


async def _docker() -> tuple[str, dict[str, float]]:
    subject = Subject.new()
    with tempfile.TemporaryDirectory(prefix="towline-bench-") as folder:
        side = DockerSide(Path(folder))
        try:
            return "docker build", {
                "cold": side.build(subject, cached=False),
                "one dependency changed": side.build(subject.with_other_dependency(), cached=True),
                "code changed": side.build(subject.with_other_code(), cached=True),
                "unchanged": side.build(subject, cached=True),
            }
        finally:
            side.remove()


async def _buildkit(engine: DockerEngine) -> tuple[str, dict[str, float]]:
    subject = Subject.new()
    with tempfile.TemporaryDirectory(prefix="towline-bench-") as folder:
        side = BuildKitSide(engine, Path(folder))
        try:
            return "BuildKit", {
                "cold": await side.build(subject),
                "one dependency changed": await side.build(subject.with_other_dependency()),
                "code changed": await side.build(subject.with_other_code()),
                "unchanged": await side.build(subject),
            }
        finally:
            side.remove()
