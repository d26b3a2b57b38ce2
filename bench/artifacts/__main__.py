"""The artifacts' benchmark. Prints a table, and on its last line the headline as one JSON object.

usage: python -m bench.artifacts [--rounds N] [--files N] [--large-mib N] …

Real processes: this checkout's registry with a local folder, PostgreSQL 18 with fsync. A folder of small
files and one with a large file go up, up again and down, in turn with `cp -r` and `sha256sum` of the same
folder; the registry is empty in each round. Then both go up together, while the client is killed twice, and
once more while the registry is.
"""

import argparse
import asyncio
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

os.environ |= {"GRPC_ENABLE_FORK_SUPPORT": "0", "GRPC_VERBOSITY": "ERROR"}
ROOT: Final = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "support"))

from bench.artifacts.faults import Fault, Resumed, resume  # noqa: E402 - the path is set above
from bench.artifacts.rates import measure_round  # noqa: E402 - likewise
from bench.artifacts.report import headline, table  # noqa: E402 - likewise
from bench.artifacts.trees import Tree, make_large, make_small  # noqa: E402 - likewise
from bench.queue.machine import describe  # noqa: E402 - likewise
from towline_testing.postgres import EMBEDDED, PostgresServer, running_postgres  # noqa: E402 - likewise
from towline_testing.registry import RegistryProcess, start_process  # noqa: E402 - likewise

MIB: Final = 1024 * 1024
WHO: Final = ("client", "registry")


def main() -> None:
    """Measure, and tell."""
    given = _arguments()
    with (
        tempfile.TemporaryDirectory(prefix="towline-bench-", dir=given.folder) as made,
        running_postgres(EMBEDDED, fsync=True) as postgres,
    ):
        folder = Path(made)
        trees = {
            "small": make_small(folder / "trees/small", given.files),
            "large": make_large(folder / "trees/large", given.large_mib * MIB),
        }
        rounds: dict[str, list[dict[str, float]]] = {name: [] for name in trees}
        for _ in range(given.rounds):
            for name, tree in trees.items():
                with _fresh_registry(postgres, folder) as place:
                    rounds[name].append(_round(place, tree))
        resumed = {who: _resumed(postgres, folder, trees, who) for who in WHO}
        machine = describe(postgres)
    found = headline(trees, rounds, resumed)
    given.results.mkdir(parents=True, exist_ok=True)
    results = {"machine": machine, "rounds": rounds, "headline": found}
    (given.results / "artifacts.json").write_text(json.dumps(results, indent=1) + "\n")
    print(table(machine, trees, rounds))
    print(json.dumps(found))


class _Place:
    """Where a registry keeps all it has."""

    def __init__(self, database_url: str, folder: Path) -> None:
        self.database_url = database_url
        self.folder = folder

    def start(self) -> RegistryProcess:
        """Start it with what it had before."""
        return start_process(self.database_url, self.folder)


@contextmanager
def _fresh_registry(postgres: PostgresServer, folder: Path) -> Iterator[_Place]:
    place = folder / "place"
    place.mkdir()
    postgres.psql("CREATE DATABASE bench")
    try:
        yield _Place(postgres.url("bench"), place)
    finally:
        postgres.psql("DROP DATABASE bench WITH (FORCE)")
        shutil.rmtree(place)


def _round(place: _Place, tree: Tree) -> dict[str, float]:
    registry = place.start()
    try:
        return asyncio.run(measure_round(registry.address, tree, place.folder))
    finally:
        registry.stop()


def _resumed(postgres: PostgresServer, folder: Path, trees: dict[str, Tree], who: str) -> Resumed:
    """Have both folders moved as one, and `who` killed among the small files and within the large one."""
    small, large = trees["small"], trees["large"]
    both = Tree(folder / "trees", small.files + large.files, small.size_bytes + large.size_bytes)
    killed_at = (small.size_bytes // 2, small.size_bytes + large.size_bytes // 2)
    with _fresh_registry(postgres, folder) as place:
        return asyncio.run(resume(place.start, both, place.folder, Fault(who, killed_at)))


def _arguments() -> Any:
    parser = argparse.ArgumentParser(
        prog="python -m bench.artifacts",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--rounds", type=int, default=3)
    add("--files", type=int, default=10_000, help="small files, of 8 KiB")
    add("--large-mib", type=int, default=2048, help="size of the large file")
    add("--folder", type=Path, help="on the disk to measure; four times the large file has to fit")
    add("--results", type=Path, default=ROOT / "bench/results", help="folder for artifacts.json")
    return parser.parse_args()


if __name__ == "__main__":
    main()
