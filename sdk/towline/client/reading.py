"""Digests of many files: computed in threads, or known from before."""

import asyncio
import hashlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, TypeVar

from towline.client.digests import PREFIX
from towline.client.known_digests import KnownDigests
from towline.client.parallel import in_parallel
from towline.client.transfers import Watch
from towline.client.trees import Entry, Stamp, changed
from towline.errors import InvalidArgument

__all__ = ["cut", "digests_of", "opened"]

# What one thread reads before it tells: many small files, or a piece of a large one.
_FILES_AT_ONCE: Final = 256
_BYTES_AT_ONCE: Final = 32 * 1024 * 1024
_BLOCK_BYTES: Final = 1024 * 1024
# More do not help: hashing takes a core each.
_THREADS: Final = max(2, min(8, os.cpu_count() or 2))

_Item = TypeVar("_Item")


async def digests_of(entries: Sequence[Entry], watch: Watch) -> tuple[dict[str, str], bool]:
    """Give the digests of files by path, and whether all of them were computed before.

    Files that have not changed since then are not read again.

    Raises:
        InvalidArgument: A file cannot be read; it is named.
        FailedPrecondition: A file changed or vanished since it was listed (FILE_CHANGED); it is named.
    """
    known = KnownDigests()
    found = await asyncio.to_thread(known.of, entries)
    watch.done(len(found), sum(entry.stamp.size_bytes for entry in entries if entry.path in found))
    loop = asyncio.get_running_loop()

    async def read(some: Sequence[Entry]) -> None:
        began_ns = time.time_ns()

        def moved(size_bytes: int) -> None:
            loop.call_soon_threadsafe(watch.done, 0, size_bytes)

        computed = await asyncio.to_thread(lambda: {entry: _digest(entry, moved) for entry in some})
        found.update({entry.path: digest for entry, digest in computed.items()})
        watch.done(len(some), 0)
        await asyncio.to_thread(known.note, computed, began_ns)

    rest = [(entry, entry.stamp.size_bytes) for entry in entries if entry.path not in found]
    await in_parallel(cut(rest, _FILES_AT_ONCE, _BYTES_AT_ONCE), read, at_once=_THREADS)
    return {path: PREFIX + digits for path, digits in found.items()}, not rest


def cut(items: Iterable[tuple[_Item, int]], most: int, most_bytes: int) -> Iterator[list[_Item]]:
    """Cut items of known sizes into groups within two bounds; one that is larger has a group of its own."""
    group: list[_Item] = []
    left = most_bytes
    for item, size_bytes in items:
        if group and (len(group) == most or size_bytes > left):
            yield group
            group, left = [], most_bytes
        group.append(item)
        left -= size_bytes
    if group:
        yield group


def opened(entry: Entry) -> int:
    """Open a file for reading and give its descriptor.

    Raises:
        InvalidArgument: It cannot be read.
        FailedPrecondition: It changed or vanished since it was listed (FILE_CHANGED).
    """
    try:
        descriptor = os.open(entry.place, os.O_RDONLY)
    except FileNotFoundError:
        raise changed(entry.path, "vanished") from None
    except OSError as error:
        raise _unreadable(entry, error) from None
    try:
        unchanged(entry, descriptor)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def unchanged(entry: Entry, descriptor: int) -> None:
    """Check that nobody has written to a file since it was listed; FailedPrecondition names it."""
    if not Stamp.of(os.fstat(descriptor)).same_content(entry.stamp):
        raise changed(entry.path, "changed")


def _digest(entry: Entry, moved: Callable[[int], object]) -> str:
    computed = hashlib.sha256()
    with os.fdopen(opened(entry), "rb", buffering=0) as file:
        told = 0
        try:
            while block := file.read(_BLOCK_BYTES):
                computed.update(block)
                told += len(block)
                if told >= _BYTES_AT_ONCE:
                    moved(told)
                    told = 0
        except OSError as error:
            raise _unreadable(entry, error) from None
        unchanged(entry, file.fileno())
    moved(told)
    return computed.hexdigest()


def _unreadable(entry: Entry, error: OSError) -> InvalidArgument:
    return InvalidArgument.field(
        "source",
        f"{entry.path!r} cannot be read ({error.strerror or error}); make it readable, or leave it out",
    )
