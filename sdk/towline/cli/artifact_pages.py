"""Pages about artifacts, for people."""

import json
from collections import defaultdict
from collections.abc import Sequence
from typing import Final

from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from towline.cli import pages, words, yaml_files
from towline.names import short
from towline.v1 import artifacts_pb2

__all__ = ["artifact_version", "lineage"]

_MOST_FILES: Final = 20
_MOST_VERSIONS: Final = 20


def artifact_version(
    version: artifacts_pb2.ArtifactVersion, others: Sequence[artifacts_pb2.ArtifactVersion]
) -> Table:
    """Write what there is to know of a version.

    Args:
        version: It, with its files.
        others: All versions of the artifact, newest first.
    """
    metadata = json.loads(version.metadata_json) if version.metadata_json else None
    return pages.facts(
        [
            ("artifact", short(version.name)),
            ("aliases", ", ".join(version.aliases)),
            ("type", version.type),
            ("size", _size(version)),
            ("digest", version.digest),
            ("made", words.moment(version.create_time)),
            ("by", _producer(version)),
            ("metadata", yaml_files.dump(metadata).rstrip() if metadata else ""),
            ("files", _files(version)),
            ("versions", _versions(others)),
        ]
    )


def _size(version: artifacts_pb2.ArtifactVersion) -> str:
    return words.files(version.file_count, version.size_bytes)


def _producer(version: artifacts_pb2.ArtifactVersion) -> str:
    run = f"run {short(version.producer_run)}" if version.producer_run else ""
    if not version.producer_job_version:
        return run
    return f"{run or 'the recording'} of {short(version.producer_job_version)}"


def _files(version: artifacts_pb2.ArtifactVersion) -> Table | str:
    if not version.files:
        return ""
    grid = Table.grid(padding=(0, 2, 0, 0))
    for file in version.files[:_MOST_FILES]:
        grid.add_row(Text(file.path), Text(words.size(file.size_bytes), justify="right"))
    if len(version.files) > _MOST_FILES:
        grid.add_row(Text(f"and {len(version.files) - _MOST_FILES:,} more", style="dim"), "")
    return grid


def _versions(others: Sequence[artifacts_pb2.ArtifactVersion]) -> Table:
    grid = Table.grid(padding=(0, 2, 0, 0))
    for other in others[:_MOST_VERSIONS]:
        grid.add_row(
            other.name.rpartition("/")[2],
            words.moment(other.create_time),
            Text(_size(other)),
            Text(", ".join(other.aliases)),
        )
    if len(others) > _MOST_VERSIONS:
        grid.add_row(f"and {len(others) - _MOST_VERSIONS:,} more", "", "", "")
    return grid


def lineage(found: artifacts_pb2.GetArtifactLineageResponse) -> Tree:
    """Draw where a version came from and where it went."""
    version = found.artifact_version
    tree = Tree(Text(f"{short(version.name)} ({version.type}, {_size(version)})", style="bold"))
    source = tree.add(Text(f"made by {_producer(version) or 'hand'}"))
    for read in found.producer_inputs:
        source.add(Text(f"which read {short(read.name)} ({read.type})"))
    made: dict[str, list[artifacts_pb2.ArtifactVersion]] = defaultdict(list)
    for descendant in found.descendants:
        made[descendant.producer_run or descendant.producer_job_version].append(descendant)
    if not found.uses:
        tree.add(Text("read by no run yet"))
        return tree
    readers = tree.add(Text("read by"))
    for use in found.uses:
        who = f"run {short(use.run)}" if use.run else "the recording"
        reader = readers.add(Text(f"{who} of {short(use.job_version)}" if use.job_version else who))
        for descendant in made[use.run or use.job_version]:
            reader.add(Text(f"which made {short(descendant.name)} ({descendant.type})"))
    if found.next_page_token:
        readers.add(Text("and more; --limit N names more of them", style="dim"))
    return tree
