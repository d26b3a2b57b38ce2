"""What a source tree has for a build with a Dockerfile, found out by a process of its own.

Whoever records a job writes its ignore file, and a pattern in it can take the interpreter for as long as it
likes: in the agent's own process every lease on the node would run out meanwhile.

usage: python -m towline_agent.dockerfile_trees ARCHIVE CONTEXT PLATFORM < towline.v1.DockerfileBuild
"""

import asyncio
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from towline.errors import Internal, InvalidArgument, NotFound
from towline.v1 import jobs_pb2
from towline_agent.core import contexts, dockerfile
from towline_agent.source_files import FOLDER, reading

__all__ = ["TreeContents", "look_into"]

# Of one Dockerfile: the texts of those that are known stay in memory.
_MOST_BYTES: Final = 256 * 1024
# Trees of many gigabytes are copied within it.
_LONGEST_S: Final = 600.0


@dataclass(frozen=True)
class TreeContents:
    """What a source tree has for a build."""

    text: str
    """Of the Dockerfile."""
    needs: dockerfile.Dockerfile
    context: str
    """Digest of the context."""


async def look_into(
    archive: Path,
    context: Path,
    build: jobs_pb2.DockerfileBuild,
    platform: str,
    *,
    longest_s: float = _LONGEST_S,
) -> TreeContents:
    """Read the Dockerfile in a source tree, and write the context that goes with it.

    Args:
        archive: The tree, from `Sources`.
        context: Where to write.
        build: Which Dockerfile.
        platform: What the image is for, such as "linux/amd64".
        longest_s: When it is given up.

    Raises:
        InvalidArgument: The tree has no such Dockerfile, or it, or its ignore file, is none.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "towline_agent.dockerfile_trees", archive, context, platform),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(longest_s):
            printed, errors = await process.communicate(build.SerializeToString())
    except TimeoutError:
        raise InvalidArgument(
            f"{build.path}: what its ignore file leaves out was not known after {longest_s:.0f} s; give it "
            "simpler patterns, with fewer stars",
            reason="INVALID_DOCKERFILE",
        ) from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        words = errors.decode(errors="replace").strip().rpartition("\n")[2]
        raise Internal(f"the source tree could not be looked into: {words}", reason="INTERNAL")
    found = json.loads(printed)
    if "reason" in found:
        raise InvalidArgument(found["message"], reason=found["reason"])
    needs = found["needs"]
    read = dockerfile.Dockerfile(tuple(needs["bases"]), tuple(needs["secrets"]), needs["needs_buildkit"])
    return TreeContents(found["text"], read, found["context"])


def _main(archive: str, context: str, platform: str) -> None:
    build = jobs_pb2.DockerfileBuild.FromString(sys.stdin.buffer.read())
    try:
        found = asdict(_contents(Path(archive), Path(context), build, platform))
    except (InvalidArgument, NotFound) as error:
        found = {"message": error.message, "reason": error.reason}
    json.dump(found, sys.stdout)


def _contents(archive: Path, context: Path, build: jobs_pb2.DockerfileBuild, platform: str) -> TreeContents:
    with reading(archive) as find:
        text = _text(find, build.path)
        needs = dockerfile.read(text, build, platform)
        left_out = dockerfile.ignored(build.path, find)
    with archive.open("rb") as source, context.open("wb") as target:
        digest = contexts.copy_context(source, target, FOLDER, left_out, {build.path})
    return TreeContents(text, needs, digest)


def _text(find: Callable[[str], bytes], path: str) -> str:
    content = find(path)
    if len(content) > _MOST_BYTES:
        raise InvalidArgument(f"{path} is too large for a Dockerfile", reason="INVALID_DOCKERFILE")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidArgument(f"{path}: it is no UTF-8 text", reason="INVALID_DOCKERFILE") from None


if __name__ == "__main__":
    _main(*sys.argv[1:])
