"""The benchmark of images. Prints a table, and on its last line the headline as one JSON object.

usage: python -m bench.images [--only builds,noop,fleet] [--rounds N] [--samples N] [--nodes N]

Real parts: a Docker Engine, a registry service on PostgreSQL, an agent's own builder, packages from the
index. Beside it a plain two-stage Dockerfile by `docker build` (classic builder, the same uv), and one by
BuildKit, with its downloads in a cache mount, on the same base image, in turn within each round; for a run
that does nothing, `docker run --rm`. The fleet is so many engines of their own, and one container registry.
"""

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

os.environ |= {"GRPC_ENABLE_FORK_SUPPORT": "0", "GRPC_VERBOSITY": "ERROR"}
ROOT: Final = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "support"))

from bench.images.builds import STEPS, measure_builds  # noqa: E402 - the path is set above
from bench.images.fleet import measure_fleet  # noqa: E402 - likewise
from bench.images.noop import measure_noop  # noqa: E402 - likewise
from bench.parts import parts_of  # noqa: E402 - likewise
from towline_agent.engine.docker import connecting  # noqa: E402 - likewise
from towline_testing.postgres import EMBEDDED, PostgresServer, running_postgres  # noqa: E402 - likewise
from towline_testing.registry import registry_service, registry_settings  # noqa: E402 - likewise

PARTS: Final = ("builds", "noop", "fleet")
LABEL: Final = 34


def main() -> None:
    """Measure, and tell."""
    given = _arguments()
    results: dict[str, Any] = {}
    with running_postgres(EMBEDDED, fsync=True) as postgres:
        if "noop" in given.only:
            results["noop"] = measure_noop(postgres, given.samples)
        if given.only & {"builds", "fleet"}:
            results |= asyncio.run(_images(given, postgres))
    headline = _headline(results)
    given.results.mkdir(parents=True, exist_ok=True)
    (given.results / "images.json").write_text(json.dumps(results | {"headline": headline}, indent=1) + "\n")
    for line in _table(results):
        print(line)
    print(json.dumps(headline))


async def _images(given: argparse.Namespace, postgres: PostgresServer) -> dict[str, Any]:
    results: dict[str, Any] = {}
    postgres.psql("CREATE DATABASE bench_images")
    with tempfile.TemporaryDirectory(prefix="towline-bench-") as folder:
        settings = registry_settings(postgres.url("bench_images"), Path(folder))
        async with registry_service(settings) as registry:
            if "builds" in given.only:
                async with connecting(None) as engine:
                    results["builds"] = await measure_builds(engine, registry.channel, given.rounds)
            if "fleet" in given.only:
                results["fleet"] = await measure_fleet(registry.channel, given.nodes)
    return results


def _headline(results: dict[str, Any]) -> dict[str, float]:
    found: dict[str, float] = {}
    if builds := results.get("builds"):
        for step in STEPS[:-1]:
            ratio = _median(builds["towline"][step]) / _median(builds["docker build"][step])
            found[f"{step.replace(' ', '_')}_ratio"] = ratio
        found["unchanged_ms"] = _median(builds["towline"]["unchanged"]) * 1000
    if noop := results.get("noop"):
        found["noop_overhead_ratio"] = _median(noop["towline"]) / _median(noop["docker run"])
    if fleet := results.get("fleet"):
        found["fleet_builds"] = fleet["builds"]
    return {name: float(f"{value:.3g}") for name, value in found.items()}


def _table(results: dict[str, Any]) -> list[str]:
    lines = ["seconds, medians over rounds (range)"]
    if builds := results.get("builds"):
        lines.append(f"{'':{LABEL}}" + "".join(f"{side:>30}" for side in builds))
        lines += [
            f"{step:{LABEL}}" + "".join(f"{_shown(builds[side][step]):>30}" for side in builds)
            for step in STEPS
        ]
    if noop := results.get("noop"):
        lines += [f"{f'no-op, {side}':{LABEL}}{_shown(seconds):>30}" for side, seconds in noop.items()]
    if fleet := results.get("fleet"):
        each = ", ".join(f"{seconds:.1f}" for seconds in fleet["seconds"])
        lines.append(
            f"{len(fleet['seconds'])} nodes ask at once: {fleet['builds']} built, "
            f"{fleet['manifests']} images pushed; there after {each}"
        )
    return lines


def _shown(seconds: list[float]) -> str:
    return f"{_median(seconds):.3f} ({min(seconds):.3f} to {max(seconds):.3f})"


def _median(seconds: list[float]) -> float:
    return statistics.median(seconds)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.images",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--only", type=parts_of(PARTS), default=set(PARTS), help=f"of {','.join(PARTS)}")
    add("--results", type=Path, default=ROOT / "bench/results", help="folder for images.json")
    add("--rounds", type=int, default=3, help="of builds")
    add("--samples", type=int, default=20, help="of the run that does nothing")
    add("--nodes", type=int, default=4, help="of the fleet")
    return parser.parse_args()


if __name__ == "__main__":
    main()
