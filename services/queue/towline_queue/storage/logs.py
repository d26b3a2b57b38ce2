"""Logs in PostgreSQL: byte streams, kept as chunks that follow each other without a gap."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from sqlalchemy import Integer, case, cast, exists, func, insert, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from towline_queue.core.log_pieces import Piece, Standing, StreamKey, join_pieces
from towline_queue.storage.run_records import not_found
from towline_queue.storage.tables import attempts, leases, log_chunks, log_streams, runs

__all__ = ["AttemptLog", "RunLog", "append", "attempt_log", "read", "run_log"]

_MOST_CHUNKS: Final = 1024
# No attempt ended before its run was made, so older partitions are not looked into.
_SINCE_MADE: Final = attempts.c.end_time >= runs.c.create_time


async def append(connection: AsyncConnection, pieces: Sequence[Piece]) -> list[Standing]:
    """Write pieces of logs, in order, each as far as it fits to what is there.

    Returns:
        Where each piece's stream stands after it. A stream whose attempt is not its run's current one, or
        whose run no agent holds, takes nothing and is stale.
    """
    current = await _current(connection, {piece.key.run for piece in pieces})
    live = [piece for piece in pieces if (piece.key.run, piece.key.epoch) in current]
    keys = sorted({piece.key for piece in live})
    sizes = await _lock(connection, keys) if keys else {}
    joined = join_pieces(sizes, live)
    if joined.chunks:
        await connection.execute(
            insert(log_chunks),
            [{**chunk.key._asdict(), "start": chunk.start, "data": chunk.data} for chunk in joined.chunks],
        )
        grown = {key: size for key, size in joined.sizes.items() if size != sizes[key]}
        key = tuple_(log_streams.c.run, log_streams.c.epoch, log_streams.c.stream)
        await connection.execute(
            update(log_streams)
            .where(key.in_(grown))
            .values(
                size=case(*((key == tuple_(*name), size) for name, size in grown.items())),
                # Of a stream that a replica before migration 0005 began, nobody knows.
                first_time=case((log_streams.c.size == 0, func.now()), else_=log_streams.c.first_time),
            )
        )
    standing = iter(joined.standing)
    stale = await _sizes(connection, {piece.key for piece in pieces} - set(keys))
    return [
        Standing(next(standing), stale=False)
        if piece.key in sizes
        else Standing(stale.get(piece.key, 0), stale=True)
        for piece in pieces
    ]


async def _current(connection: AsyncConnection, names: set[str]) -> set[tuple[str, int]]:
    """Return the attempts of these runs that go on, by run and epoch: only these may write."""
    query = select(leases.c.run, leases.c.epoch).where(leases.c.run.in_(names))
    return {(row.run, row.epoch) for row in (await connection.execute(query)).all()}


async def _lock(connection: AsyncConnection, keys: Sequence[StreamKey]) -> dict[StreamKey, int]:
    """Return where the streams stand, and hold them to the end; in order, against deadlock."""
    await connection.execute(
        upsert(log_streams).values([{**key._asdict(), "size": 0} for key in keys]).on_conflict_do_nothing()
    )
    query = (
        select(log_streams)
        .where(tuple_(log_streams.c.run, log_streams.c.epoch, log_streams.c.stream).in_(keys))
        .order_by(log_streams.c.run, log_streams.c.epoch, log_streams.c.stream)
        .with_for_update()
    )
    rows = (await connection.execute(query)).all()
    return {StreamKey(row.run, row.epoch, row.stream): row.size for row in rows}


async def _sizes(connection: AsyncConnection, keys: set[StreamKey]) -> dict[StreamKey, int]:
    if not keys:
        return {}
    query = select(log_streams).where(
        tuple_(log_streams.c.run, log_streams.c.epoch, log_streams.c.stream).in_(keys)
    )
    rows = (await connection.execute(query)).all()
    return {StreamKey(row.run, row.epoch, row.stream): row.size for row in rows}


class AttemptLog(NamedTuple):
    """Where the log of one attempt stands."""

    size: int
    ended: bool
    """Whether the attempt has ended: then the log grows no more."""


@dataclass(frozen=True)
class RunLog:
    """What attempts a run has.

    Attributes:
        epochs: Those with an attempt, ascending.
        ended: Whether the run has ended: then there will be no more attempts.
    """

    epochs: Sequence[int]
    ended: bool


async def run_log(connection: AsyncConnection, run: str) -> RunLog:
    """Return what attempts a run has; NotFound/RUN_NOT_FOUND if there is no such run."""
    past = select(attempts.c.epoch).where(attempts.c.run == runs.c.name, _SINCE_MADE)
    present = select(leases.c.epoch).where(leases.c.run == runs.c.name)
    # One statement, one snapshot: an attempt that ends meanwhile is there once.
    query = select(
        runs.c.state, func.array(past.scalar_subquery()), func.array(present.scalar_subquery())
    ).where(runs.c.name == run)
    row = (await connection.execute(query)).one_or_none()
    if row is None:
        raise not_found(run)
    state, past_epochs, open_epochs = row
    return RunLog(sorted([*past_epochs, *open_epochs]), ended=state is not None)


async def attempt_log(connection: AsyncConnection, key: StreamKey) -> AttemptLog:
    """Return where a log stands; one that nobody wrote to is empty."""
    goes_on = exists().where(leases.c.run == key.run, leases.c.epoch == key.epoch)
    size = select(log_streams.c.size).where(
        log_streams.c.run == key.run, log_streams.c.epoch == key.epoch, log_streams.c.stream == key.stream
    )
    # One statement, one snapshot: a log that has ended in it has also all its bytes in it.
    query = select(func.coalesce(size.scalar_subquery(), 0), ~goes_on)
    return AttemptLog(*(await connection.execute(query)).one())


async def read(connection: AsyncConnection, key: StreamKey, offset: int, most: int) -> bytes:
    """Return up to `most` bytes of a log from `offset`; empty: there are none."""
    of_stream = (
        log_chunks.c.run == key.run,
        log_chunks.c.epoch == key.epoch,
        log_chunks.c.stream == key.stream,
    )
    first = select(func.max(log_chunks.c.start)).where(*of_stream, log_chunks.c.start <= offset)
    # Chunks may be larger than what is wanted: only the first one begins before it, only the last ends after.
    skip = func.greatest(offset - log_chunks.c.start, 0)
    length = offset + most - log_chunks.c.start - skip
    wanted = func.substr(log_chunks.c.data, cast(skip + 1, Integer), cast(length, Integer))
    query = (
        select(wanted)
        .where(*of_stream, log_chunks.c.start >= first.scalar_subquery(), log_chunks.c.start < offset + most)
        .order_by(log_chunks.c.start)
        .limit(_MOST_CHUNKS)
    )
    return b"".join((await connection.execute(query)).scalars())
