"""How Docker's engine answers with one thing after the other: lines of JSON."""

from collections.abc import AsyncIterator
from typing import Final

__all__ = ["CHUNK_BYTES", "lines"]

CHUNK_BYTES: Final = 256 * 1024


async def lines(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Give the lines of what comes in pieces, but for empty ones."""
    rest = b""
    async for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            if line.strip():
                yield line
    if rest.strip():
        yield rest
