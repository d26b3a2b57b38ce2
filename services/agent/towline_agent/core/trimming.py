"""Making uv's cache smaller: a program for a container that has it."""

from collections.abc import Mapping
from typing import Final

__all__ = ["CACHE_IS", "trimming_files"]

CACHE_IS: Final = "towline: the cache is "
"""What the line that tells its size begins with; a number of bytes follows."""

# A package counts as used when its files were read last, as far as the file system tells: `relatime` does,
# once a day. Where the rest is too much as well (checkouts, answers of indexes), all goes.
_TRIM: Final = f"""\
import os, pathlib, subprocess, sys

cache, most = pathlib.Path("/towline/cache"), int(sys.argv[1])
uv = "/towline/bin/uv"

def size(folder):
    found = 0
    for path, _, names in os.walk(folder):
        for name in names:
            try:
                found += os.lstat(os.path.join(path, name)).st_blocks * 512
            except FileNotFoundError:
                pass
    return found

def used(files):
    times = [max(found.st_atime, found.st_mtime) for found in map(os.lstat, files)]
    return max(times, default=0.0)

def packages():
    kept = {{}}
    for pattern in ("wheels-v*/pypi/*", "wheels-v*/index/*/*", "wheels-v*/url/*/*"):
        for folder in cache.glob(pattern):
            archives = [path.resolve() for path in folder.iterdir() if path.is_symlink() and path.exists()]
            notes = [path for path in folder.iterdir() if path.is_file()]
            records = [path for archive in archives for path in archive.glob("*.dist-info/RECORD")]
            when, much = kept.get(folder.name, (0.0, 0))
            much += sum(size(archive) for archive in archives)
            kept[folder.name] = max(when, used(notes + records)), much
    return sorted((when, much, name) for name, (when, much) in kept.items())

total = size(cache)
if total > most:
    subprocess.run([uv, "cache", "prune"], check=True)
    total = size(cache)
if total > most:
    going, left = [], total
    for _, much, name in packages():
        if left <= most * 0.8:
            break
        going.append(name)
        left -= much
    if going:
        subprocess.run([uv, "cache", "clean", *going], check=True)
    total = size(cache)
if total > most:
    subprocess.run([uv, "cache", "clean"], check=True)
    total = size(cache)
print("{CACHE_IS}%d" % total)
"""


def trimming_files(most_bytes: int) -> Mapping[str, bytes]:
    """Make the small files of a container that makes the cache smaller, by their path in /towline."""
    steps = (
        "set -eu",
        "export HOME=/towline/home UV_CACHE_DIR=/towline/cache UV_NO_PROGRESS=1",
        # uv removes nothing while a build has the cache, and would wait for that for minutes.
        "export UV_LOCK_TIMEOUT=2",
        f"/opt/venv/bin/python /towline/trim.py {most_bytes}",
    )
    return {
        "install": "\n".join(["#!/bin/sh", *steps, ""]).encode(),
        "trim.py": _TRIM.encode(),
    }
